-- How fast training is: steps of the "facts" recipe from fresh weights, on rows of its corpus. `make bench` runs it.
--     patchbay run examples/facts/speed.lua steps=20
-- A step is gradients of 24 rows of 64 tokens and AdamW; making its sequences out of rows is counted too, as in training. Arithmetic is
-- counted as three forward passes (the engine makes a fourth, to compute inner values again): 6 flops for each token and weight of a
-- matrix, and attention's products.
local pb, train = require "patchbay", require "patchbay.train"
local corpora, rows = require "corpus", require "rows"

local p = pb.params { steps = 20, batch = 24, seed = 1 }
local facts, corpus = pb.load "facts", corpora.new(p.seed)
local config, tokenizer = facts.config, facts.tokenizer
local weights = train.positions(config, train.init(config, { scheme = "fan_in", embedding = 0.1, seed = p.seed }))
local model = pb.model { config = config, weights = weights, tokenizer = tokenizer, name = "speed" }
local data = rows.make(corpus, tokenizer, (p.steps + 2) * p.batch, p.seed)
local trainer <close> = pb.trainer(model, weights)

-- The best of some products of square matrices: what the machine's sgemm gives.
local function peak()
  local n, best = 1024, 0
  local a, b = pb.randn { n, n, seed = 1, draw = 0 }, pb.randn { n, n, seed = 1, draw = 1 }
  for _ = 1, 5 do
    local start = trainer:seconds()
    a:matmul(b)
    best = math.max(best, 2 * n ^ 3 / (trainer:seconds() - start))
  end
  return best
end

local matrices = 0 -- weights of matrices, the unembedding among them, without the tables that are only looked up
for name, t in pairs(weights) do matrices = matrices + (t.ndim == 2 and not name:find "wpe" and t.shape[1] * t.shape[2] or 0) end

for _, kind in ipairs { "free", "facts" } do
  local best, tokens_of, flops_of, first_peak = math.huge, 0, 0, peak()
  for step = 0, p.steps + 1 do -- the first two warm up
    local start = trainer:seconds()
    local masks = { layers = config.n_layer, seen_from = kind == "facts" and 4 or nil }
    local sequences = rows.sequences(data:narrow(0, step * p.batch, p.batch):totable(), masks)
    local tokens, attention = 0, 0
    for _, s in ipairs(sequences) do
      local n = #s.tokens
      tokens, attention = tokens + n, attention + 4 * config.n_layer * config.n_embd * n * (n + 1) / 2
    end
    trainer:gradients(sequences)
    trainer:adamw { rate = 1e-4, step = step + 1 }
    local seconds = trainer:seconds() - start
    if step > 1 and seconds / tokens < best then best, tokens_of, flops_of = seconds / tokens, tokens, 3 * (2 * matrices * tokens + attention) end
  end
  local speed, most = flops_of / (best * tokens_of), math.max(first_peak, peak())
  print(("training, %-5s %5d tokens a step %8.0f tokens/s %8.1f GFLOP/s  %5.1f %% of sgemm's %.1f"):format(kind, tokens_of, 1 / best, speed * 1e-9, 100 * speed / most,
    most * 1e-9))
end
