#!/usr/bin/env bash
# Train the SAEs that the experiments compare: one recipe for all layers and widths.
#
#   experiments/train_saes.sh DIR [JOBS]
#
# DIR is what experiments/prepare_data.py wrote; the SAEs go to DIR/saes/MODEL-LAYER/topk-WIDTH.  TopK, k = 32, 200,000 to
# 250,000 tokens three times over, none of them of a test part of the source; SmolLM2 runs in bfloat16, which takes half the time of
# float32 where the processor has instructions for it.  Run again, it makes what is missing.
set -euo pipefail
data=$1 jobs=${2:-2}

train() {
  local data=$1 model=$2 corpus=$3 layer=$4 dtype=$5
  shift 5
  local kept="$data/saes/activations/$model-$layer"
  for width in "$@"; do
    local folder="$data/saes/$model-$layer/topk-$width"
    [ -e "$folder/sae.safetensors" ] && continue
    sae-features train "$data/corpora/$corpus.jsonl" --model "$model" --layer "$layer" --n-latents "$width" --k 32 \
      --epochs 3 --batch-size 1024 --max-length 128 --dtype "$dtype" --label --activations "$kept" --quiet -o "$folder"
  done
  rm -rf "$kept"
}
export -f train

while read -r line; do
  printf '%s %s\0' "$data" "$line"
done <<'PLACES' | xargs -0 -P "$jobs" -I{} bash -c 'train {}'
smollm2 english 14 bfloat16 512 2048 8192
smollm2 english 22 bfloat16 2048
e5 eight_languages 10 float32 2048
smollm2 english 7 bfloat16 2048
minilm english 3 float32 512 2048 8192
e5 eight_languages 5 float32 512 2048 8192
e5 eight_languages 2 float32 2048
minilm english 5 float32 2048
minilm english 1 float32 2048
PLACES
