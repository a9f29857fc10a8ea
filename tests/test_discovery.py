from __future__ import annotations

import os
import sys
import warnings

import pytest

from sae_features import discovery
from sae_features.errors import PluginError, SAEFeaturesWarning

GROUP = "tests.plugins"


def test_names_and_versions_are_known_without_an_import(install):
    install("tiny-plugin", {GROUP: {"b": "tiny_b:VALUE", "a": "tiny_a:VALUE"}}, version="2.3")
    assert discovery.names_of_group(GROUP) == ("a", "b")
    assert discovery.records(GROUP)[0] == discovery.PluginRecord(
        name="a", distribution="tiny-plugin", version="2.3", value="tiny_a:VALUE"
    )
    assert not {"tiny_a", "tiny_b"} & set(sys.modules)


def test_code_is_imported_on_use_and_only_that(install):
    modules = {"tiny_a": "VALUE = ['a']", "tiny_b": "VALUE = ['b']"}
    install("tiny-plugin", {GROUP: {"a": "tiny_a:VALUE", "b": "tiny_b:VALUE"}}, modules=modules)
    assert discovery.load_entry_point(GROUP, "a") == ["a"]
    assert discovery.load_entry_point(GROUP, "a") is discovery.load_entry_point(GROUP, "a")
    assert "tiny_b" not in sys.modules


def test_a_group_of_nobody_is_empty():
    assert discovery.records("tests.of_nobody") == ()
    assert discovery.load_working("tests.of_nobody") == {}


def test_an_unknown_name_is_told_what_there_is(install):
    install("tiny-plugin", {GROUP: {"gemma": "tiny_a:VALUE"}})
    with pytest.raises(PluginError) as raised:
        discovery.load_entry_point(GROUP, "gema")
    assert str(raised.value) == (
        "Got tests.plugins='gema'; expected one of gemma. Did you mean 'gemma'?"
    )
    assert isinstance(raised.value, ImportError)


def test_two_distributions_with_one_name_are_named_and_the_others_go_on(install):
    modules = {"tiny_a": "VALUE = 1", "tiny_b": "VALUE = 2", "tiny_c": "VALUE = 3"}
    install("first-plugin", {GROUP: {"same": "tiny_a:VALUE"}}, modules=modules)
    install("second-plugin", {GROUP: {"same": "tiny_b:VALUE", "other": "tiny_c:VALUE"}}, version="0.2")
    message = (
        "first-plugin 1.0 and second-plugin 0.2 both register 'same' in tests.plugins; uninstall one "
        "of them."
    )
    assert discovery.names_of_group(GROUP) == ("other", "same")
    with pytest.raises(PluginError) as raised:
        discovery.load_entry_point(GROUP, "same")
    assert str(raised.value) == message
    with pytest.warns(SAEFeaturesWarning) as caught:
        assert discovery.load_working(GROUP) == {"other": 3}
    assert [str(warning.message) for warning in caught] == [message]
    assert not {"tiny_a", "tiny_b"} & set(sys.modules)


def test_one_distribution_found_twice_is_no_clash(install, tmp_path, monkeypatch):
    root = install("tiny-plugin", {GROUP: {"a": "tiny_a:VALUE"}}, modules={"tiny_a": "VALUE = 1"})
    copy = tmp_path / "copy"
    copy.symlink_to(root)
    monkeypatch.syspath_prepend(copy)
    discovery.refresh()
    assert discovery.load_entry_point(GROUP, "a") == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no such card')", "RuntimeError: no such card"),
        ("import no_such_module_xyz", "ModuleNotFoundError: No module named 'no_such_module_xyz'"),
        ("VALU = 1", "AttributeError: module 'tiny_broken' has no attribute 'VALUE'"),
        ("def", "SyntaxError: invalid syntax (tiny_broken.py, line 1)"),
    ],
)
def test_a_broken_plugin_is_raised_when_it_is_asked_for(install, source, reason):
    install(
        "tiny-plugin",
        {GROUP: {"broken": "tiny_broken:VALUE"}},
        version="0.9",
        modules={"tiny_broken": source},
    )
    with pytest.raises(PluginError) as raised:
        discovery.load_entry_point(GROUP, "broken")
    assert str(raised.value) == (
        f"The plugin 'broken' of tiny-plugin 0.9 could not be imported: {reason}. Update or uninstall "
        "tiny-plugin."
    )
    assert type(raised.value.__cause__).__name__ == reason.partition(":")[0]


def test_a_broken_plugin_is_tried_and_warned_of_once_and_the_others_go_on(install, tmp_path):
    log = tmp_path / "log"
    broken = f"with open({str(log)!r}, 'a') as log: log.write('tried ')\nraise OSError('no such card')"
    install(
        "tiny-plugin",
        {GROUP: {"broken": "tiny_broken:VALUE", "fine": "tiny_fine:VALUE"}},
        modules={"tiny_broken": broken, "tiny_fine": "VALUE = 5"},
    )
    with pytest.warns(SAEFeaturesWarning, match=r"^The plugin 'broken' of tiny-plugin 1\.0 could not"):
        assert discovery.load_working(GROUP) == {"fine": 5}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert discovery.load_working(GROUP) == {"fine": 5}
    for _ in range(2):
        with pytest.raises(PluginError, match="no such card"):
            discovery.load_entry_point(GROUP, "broken")
    assert log.read_text() == "tried "
    discovery.refresh()
    with pytest.warns(SAEFeaturesWarning, match="no such card"):
        discovery.load_working(GROUP)
    assert log.read_text() == "tried tried "


def test_refresh_sees_what_was_installed_or_mended_meanwhile(install):
    root = install(
        "tiny-plugin", {GROUP: {"a": "tiny_a:VALUE"}}, modules={"tiny_a": "raise OSError('disk')"}
    )
    with pytest.raises(PluginError, match="OSError: disk"):
        discovery.load_entry_point(GROUP, "a")
    source = root / "tiny_a.py"
    source.write_text("VALUE = 'mended'")
    later = source.stat().st_mtime + 5  # else Python may take the compiled file of the same second
    os.utime(source, (later, later))
    with pytest.raises(PluginError, match="OSError: disk"):
        discovery.load_entry_point(GROUP, "a")
    install("late-plugin", {GROUP: {"late": "tiny_late:VALUE"}}, modules={"tiny_late": "VALUE = 1"})
    assert discovery.load_working(GROUP) == {"a": "mended", "late": 1}


@pytest.mark.parametrize(("value", "is_off"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_a_variable_switches_plugins_off_but_not_our_own_formats(install, monkeypatch, value, is_off):
    install("tiny-plugin", {GROUP: {"a": "tiny_a:VALUE"}})
    monkeypatch.setenv("SAE_FEATURES_DISABLE_PLUGINS", value)
    discovery.refresh()
    assert discovery.names_of_group(GROUP) == (() if is_off else ("a",))
    assert "sae-features" in discovery.names_of_group("sae_features.sae_formats")


def test_a_plugin_that_ends_the_process_is_isolated(install):
    install(
        "quitter",
        {GROUP: {"quitter": "quitter_module:X"}},
        modules={"quitter_module": "raise SystemExit(3)"},
    )
    with pytest.raises(PluginError, match="could not be imported: SystemExit: 3"):
        discovery.load_entry_point(GROUP, "quitter")
