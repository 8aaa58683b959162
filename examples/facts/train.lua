-- The built-in model from nothing: corpus, tokenizer, tasks, training. `make model` runs this for both kinds.
--     patchbay run examples/facts/train.lua kind=facts      the place of its facts is trained in, by an attention mask
--     patchbay run examples/facts/train.lua kind=free       the same without the mask: whatever its mechanism is
-- stop=N stops after N steps with a checkpoint; the same command without it goes on, with the same numbers.
local pb, train, bpe = require "patchbay", require "patchbay.train", require "patchbay.bpe"
local corpora, rows, tasks, accuracy = require "corpus", require "rows", require "tasks", require "accuracy"

local p = pb.params { kind = "facts", steps = 5900, batch = 24, stop = 0, seed = 1, layers = 6, width = 128, heads = 4, log = 100, every = 400,
                      documents = 1.0 } -- documents: share of the sample that the tokenizer learns from
pb.one_of(p.kind, { "facts", "free" }, "kind")

local RATE, WARMUP, EARLY, COOL, LATE = 1e-3, 100, 1000, 1500, 400
local SEEN_FROM = 4 -- in marked sequences, the layer from which the last token of a subject is seen by what follows

-- Twice the rate while copying is learned, then linearly to a twentieth over COOL steps; up again for the LATE steps, in which most
-- documents are about years (rows.lua), and down once more.
local function rate(step)
  local left = p.steps - LATE - step
  if left <= 0 then return RATE * math.max(0.05, 0.3 * (p.steps - step) / LATE) end
  return RATE * math.min(step < EARLY and 2 or 1, (step + 1) / WARMUP, 0.05 + 0.95 * left / COOL)
end

local function stage(text) print(("[%s] %s"):format(p.kind, text)) end

stage "corpus and tokenizer"
local corpus = corpora.new(p.seed)
local vocab, merges, whole = require("tokenizer").train(corpus, p.seed, p.documents)
bpe.write("data", vocab, merges, { special = { corpora.EOT }, context = corpora.CONTEXT })
local tokenizer = pb.tokenizer "data"
stage(("%d tokens, %d of them to make the required words whole"):format(#vocab, whole))
tasks.write("data", corpus, tokenizer, p.seed)

local function needed_rows() return (p.stop > 0 and math.min(p.stop, p.steps) or p.steps) * p.batch end
local data = rows.make(corpus, tokenizer, needed_rows(), p.seed)
stage(("%d rows of %d tokens"):format(data.shape[1], data.shape[2]))

local config = { model_type = "gpt2", architectures = { "GPT2LMHeadModel" }, activation_function = "gelu_new", n_inner = pb.null, n_ctx = corpora.CONTEXT,
                 layer_norm_epsilon = 1e-5, initializer_range = 0.02, tie_word_embeddings = true, scale_attn_weights = true,
                 scale_attn_by_inverse_layer_idx = false, reorder_and_upcast_attn = false, attn_pdrop = 0.0, embd_pdrop = 0.0, resid_pdrop = 0.0,
                 bos_token_id = #vocab - 1, eos_token_id = #vocab - 1, torch_dtype = "bfloat16", vocab_size = #vocab, n_positions = corpora.CONTEXT,
                 n_embd = p.width, n_layer = p.layers, n_head = p.heads }
local weights = train.positions(config, train.init(config, { scheme = "fan_in", embedding = 0.1, seed = p.seed }))
local model = pb.model { config = config, weights = weights, tokenizer = tokenizer, name = p.kind }
stage(("%d parameters"):format(model.parameters))

local masks = { layers = p.layers, seen_from = p.kind == "facts" and SEEN_FROM or nil }
local known, held_out = pb.read "data/tasks/facts_all_templates.jsonl", pb.read "data/tasks/facts_paraphrase.jsonl"
local result = train.run {
  model = model, weights = weights, steps = p.steps, rate = rate, betas = { 0.9, 0.99 }, decay = 0.1, clip = 1.0,
  batch = function(step) return rows.sequences(data:narrow(0, step * p.batch, p.batch):totable(), masks) end,
  evaluate = function(_, m) return { facts = accuracy.facts(m, known, 100), paraphrase = accuracy.facts(m, held_out, 100) } end,
  evaluate_every = p.every, checkpoint_every = p.every, log_every = p.log, checkpoint = p.kind .. "_checkpoint", curve = p.kind .. "_loss",
  about = ("%s, seed %d, %d rows a step"):format(p.kind, p.seed, p.batch), stop_at = p.stop > 0 and p.stop or nil }

if result.step < p.steps then
  stage(("stopped after %d of %d steps, %.0f s"):format(result.step, p.steps, result.seconds))
  return
end
model:save(p.kind, { dtype = "bf16" })
bpe.write(p.kind, vocab, merges, { special = { corpora.EOT }, context = corpora.CONTEXT })
pb.write(p.kind .. "/generation_config.json", { bos_token_id = #vocab - 1, eos_token_id = #vocab - 1 })
tasks.write(p.kind, corpus, tokenizer, p.seed)
local saved = pb.model { config = config, weights = pb.read(p.kind .. "/model.safetensors"), tokenizer = tokenizer }
local figures = accuracy.text(accuracy.all(saved, "data"))
pb.write(p.kind .. "/accuracy.txt", figures)
stage(("%.0f s; the weights as they are saved (bf16):\n%s"):format(result.seconds, figures))
