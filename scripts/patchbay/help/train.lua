return {
  { name = "trainer", summary = "The mechanism of training, made by pb.trainer: gradients of a batch, the optimiser's step, checkpoints." },
  { name = "pb.trainer", signature = "pb.trainer(model, weights) -> trainer", summary = "What one step of training takes: loss and gradients of a batch in one call, AdamW in another.",
    text = [[
model: made by pb.model of these weights; weights: that table, or a part of it (what is absent stays as it is). The trainer holds a
gradient and AdamW's two moments for each weight. Most recipes call train.run (patchbay help patchbay.train) instead.]],
    example = [[local trainer = pb.trainer(model, weights)
local loss, norm = trainer:gradients { { tokens = { 5, 9, 2 } } }
trainer:adamw { rate = 1e-3, step = 1, scale = math.min(1, 1 / norm) }]] },
  { name = "trainer:gradients", signature = "trainer:gradients(sequences) -> loss, norm, targets",
    summary = "Set the gradients of the mean loss over all tokens to be predicted; nats.",
    text = [[
A sequence is { tokens = ids, predict = positions whose next token counts (default: all but the last), patches = list }. Lengths may
differ; nothing is padded. norm is the length of all gradients together; targets the number of predicted tokens.
Patches hold in training only: { site =, layer = number, list or nothing (all layers), pos, head, neuron, dest, src =, and one of
value, add, scale (numbers), dropout = rate or { rate =, seed =, draw = } }. An attention mask is { site = "attn_scores", dest =, src =,
value = -math.huge }. Dropout: 0 with that probability, else 1 / (1 - rate); the same seed and draw give the same entries.]] },
  { name = "trainer:loss", signature = "trainer:loss(sequences) -> loss, targets", summary = "The mean loss alone, without gradients." },
  { name = "trainer:adamw", signature = "trainer:adamw { rate =, step =, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, scale = 1, decay = 0 }",
    summary = "One step of AdamW with the gradients as they are, and model:refresh().",
    text = "step counts from 1. scale multiplies the gradients (clipping). decay: a number for all weights, or { [name] = number }, 0 for others." },
  { name = "trainer:tensors", signature = 'trainer:tensors("weight" | "gradient" | "first" | "second") -> { [name] = tensor }',
    summary = "The trainer's own tensors (moments: first, second): changing them changes it." },
  { name = "trainer:names", signature = "trainer:names() -> list", summary = "The trained weights, in the model's order." },
  { name = "trainer:seconds", signature = "trainer:seconds() -> number", summary = "A clock that only goes forward, for rates." },
  { name = "trainer:save", signature = "trainer:save(file, identity, state) -> digest", summary = "Weights and moments into a .safetensors file of the output folder, with two texts and a digest.",
    text = "identity: what the run is; state: how far it has come. The file appears whole or not at all." },
  { name = "trainer:load", signature = "trainer:load(file, identity) -> state", summary = "Take weights and moments from such a file; nil if there is none.",
    text = "Another identity, other shapes or a wrong digest are errors, and nothing is changed then." },

  { name = "patchbay.train", summary = "Training a model: weights, schedules, batches, checkpoints, the loss curve.",
    text = [[
local train = require "patchbay.train"

Weights are made by train.init, the model by pb.model, a batch by a function of the step's number (from 0); train.run does the rest.]],
    example = [[local train = require "patchbay.train"
local weights = train.init(config, { seed = 1 })
local model = pb.model { config = config, weights = weights }
train.run { model = model, weights = weights, steps = 1000, rate = train.cosine { rate = 1e-3, steps = 1000, warmup = 50 },
            batch = train.batches(sequences, { tokens = 1536 }), checkpoint = "run", curve = "loss" }]] },
  { name = "patchbay.train.init", signature = 'train.init(config [, { scheme = "range", std =, embedding =, sines = false, seed = }]) -> weights',
    summary = "Weights for a gpt2 or llama configuration.",
    text = [[
scheme "range": deviation std (default: the configuration's initializer_range); "fan_in": 1 / sqrt(inputs). Matrices that write to the
residual stream are divided by sqrt(2 layers). embedding: deviation of the tables. Norms begin at 1, biases at 0. sines = amplitude
(true: 0.2): gpt2's positions begin as sines and cosines in half of the dimensions.]] },
  { name = "patchbay.train.positions", signature = "train.positions(config, weights [, { amplitude = 0.3, slowest = 0.05, heads = 2, strength = 1 }]) -> weights",
    summary = "Position embeddings from which previous-token heads, and so induction heads, are learned quickly (gpt2).",
    text = [[
Changes the weights of train.init in place. Half of the dimensions become sines and cosines of this amplitude; the fastest turns by half a turn
with each token, the slowest by that share of it. The first `heads` heads of layer 0 begin by attending to the token before (strength: of their
queries and keys; 0 heads: none do). All of it is trained further.]] },
  { name = "patchbay.train.constant", signature = "train.constant(rate [, warmup]) -> function(step)", summary = "One rate after linear warm-up." },
  { name = "patchbay.train.cosine", signature = "train.cosine { rate =, steps =, warmup = 0, least = 0 } -> function(step)", summary = "Linear warm-up, then half a cosine down to least at the last step." },
  { name = "patchbay.train.piecewise", signature = "train.piecewise { { step, rate }, ... } -> function(step)", summary = "Straight lines between points; two points at one step are a jump." },
  { name = "patchbay.train.batches", signature = "train.batches(sequences, { tokens = 1536, seed = }) -> function(step)", summary = "Batches of at most so many tokens; each pass over the data has an order of its own." },
  { name = "patchbay.train.run", signature = "train.run { model =, weights =, batch =, steps =, rate =, ... } -> { log =, step =, seconds =, resumed = }",
    summary = "Train: gradients, clipping, AdamW, checkpoints, evaluation, progress.",
    text = [[
batch: function(step) -> list of sequences (trainer:gradients), the same for the same step. rate: a number or function(step).
Options: betas = { 0.9, 0.999 }, eps = 1e-8, clip = 1.0 (largest norm of all gradients; false: none), decay = 0.1 (of what has two
axes) or function(name, tensor) -> number, dropout = rate or { rate =, seed =, sites = { { "pattern" }, { "resid_pre", 0 }, ... } }
(default: as GPT-2), evaluate = function(step, model) -> { name = number } every evaluate_every = 500 steps, log_every = 100, quiet,
curve = "name" (writes name.csv and name.png).
checkpoint = "name" writes name.safetensors every checkpoint_every = 500 steps; a run of the same options goes on from it (resume = false:
does not), with the same numbers, bit for bit, as if it had never stopped. about: a text that says what the data are; checkpoints of
another run are refused. stop_at: stop, with a checkpoint, before this step.
A loss that is not finite stops with the step, the batch and the first tensor that is not finite, and leaves the checkpoint alone.]] },
  { name = "patchbay.train.curve", signature = "train.curve(log, name)", summary = "Write name.csv and name.png of a log." },
}
