"""Hook points: a layer counted from 0 and a site."""

from __future__ import annotations

from sae_features.hook_point import SITES, HookPoint


def test_the_default_site_is_the_output_of_the_block():
    point = HookPoint(12)
    assert point == HookPoint(layer=12, site="resid_post") == (12, "resid_post")
    assert str(point) == "layer 12, resid_post"
    assert point.site in SITES


def test_sites_differ():
    assert len({HookPoint(0, site) for site in SITES}) == len(SITES) == 8
