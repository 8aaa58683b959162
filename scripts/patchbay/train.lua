-- Training: AdamW under a schedule, with checkpoints from which a run goes on bit for bit.
--   init        weights from a configuration (patchbay.initial)
--   positions   position embeddings that make previous-token heads easy to have (patchbay.positions)
--   constant, cosine, piecewise   schedules (patchbay.schedules)
--   batches     packed batches of sequences (patchbay.batches, dropout too)
--   curve       the loss as CSV and figure (patchbay.curve)
--   run         all of it; what a checkpoint says is in patchbay.checkpoints
-- One step is two calls of C (pb.trainer); what a batch is, a function of the step's number says, so that nothing of the data needs
-- to be kept in a checkpoint. Sequences have their own lengths: a batch is packed, and nothing is padded.
local pb = require "patchbay"
local batches, checkpoints, curve = require "patchbay.batches", require "patchbay.checkpoints", require "patchbay.curve"
local schedules = require "patchbay.schedules"

local train = { init = require "patchbay.initial".init, positions = require "patchbay.positions", constant = schedules.constant,
                cosine = schedules.cosine, piecewise = schedules.piecewise, batches = batches.packed, curve = curve.write }

local OPTIONS = { "model", "weights", "batch", "steps", "rate", "dropout", "evaluate", "checkpoint", "curve", "about",
                  betas = { 0.9, 0.999 }, eps = 1e-8, decay = 0.1, clip = 1.0, resume = true,
                  checkpoint_every = 500, evaluate_every = 500, log_every = 100, quiet = false, stop_at = math.huge }

local function check(o)
  for _, name in ipairs { "model", "weights", "batch", "steps", "rate" } do
    if o[name] == nil then pb.fail("train.run needs %s", name) end
  end
  if type(o.batch) ~= "function" then pb.fail "train.run: batch must be a function(step) that gives a list of sequences" end
  if math.type(o.steps) ~= "integer" or o.steps < 1 then pb.fail "train.run: steps must be a positive integer" end
  if type(o.rate) == "number" then o.rate = schedules.constant(o.rate) end
  if o.dropout then
    local d = type(o.dropout) == "number" and { rate = o.dropout } or o.dropout
    o.dropout = pb.options(d, { seed = pb.seed, sites = batches.DROPOUT_SITES, "rate" }, "train.run: dropout")
  end
  for _, name in ipairs { "checkpoint_every", "evaluate_every", "log_every" } do
    if math.type(o[name]) ~= "integer" or o[name] < 1 then pb.fail("train.run: %s must be a positive integer", name) end
  end
end

-- Matrices and tables decay, norms and biases do not; or what decay(name, tensor) says.
local function decays_of(trainer, decay)
  local decays = {}
  for name, t in pairs(trainer:tensors "weight") do
    if type(decay) == "function" then
      decays[name] = decay(name, t)
    elseif t.ndim > 1 then
      decays[name] = decay
    end
  end
  return decays
end

-- The first tensor with a number that is not finite, weights before gradients, as text.
local function first_bad(trainer)
  for _, kind in ipairs { "weight", "gradient" } do
    local tensors = trainer:tensors(kind)
    for _, name in ipairs(trainer:names()) do
      local count, index = tensors[name]:nonfinite()
      if count > 0 then return ("the %s of '%s' has %d numbers that are not finite, the first at %d"):format(kind, name, count, index) end
    end
  end
  return "all weights and gradients are finite"
end

-- One step: gradients, the check, the update. Returns the loss, the norm before clipping and the rate.
local function one_step(trainer, o, decays, step, kept)
  local sequences = o.batch(step)
  if type(sequences) ~= "table" or #sequences == 0 then pb.fail("train.run: batch(%d) gave no sequences", step) end
  local tokens = 0
  for _, s in ipairs(sequences) do tokens = tokens + #s.tokens end
  if o.dropout then sequences = batches.with_dropout(sequences, step, o.dropout, o.model.layers) end
  local ok, loss, norm = pcall(trainer.gradients, trainer, sequences)
  local finite = ok and loss == loss and math.abs(loss) < math.huge and norm == norm and norm < math.huge
  if not ok and not tostring(loss):find "finite" then error(loss, 0) end
  if not finite then
    pb.fail("train.run: step %d: %s; %s. The batch has %d sequences, the first begins with tokens %s. %s", step,
            ok and ("the loss is %g and the gradient's norm %g"):format(loss, norm) or tostring(loss), first_bad(trainer), #sequences,
            table.concat(sequences[1].tokens, " ", 1, math.min(8, #sequences[1].tokens)), kept())
  end
  local rate = o.rate(step)
  trainer:adamw { rate = rate, step = step + 1, beta1 = o.betas[1], beta2 = o.betas[2], eps = o.eps, decay = decays,
                  scale = o.clip and norm > o.clip and o.clip / (norm + 1e-6) or 1 }
  return loss, norm, rate, tokens
end

-- train.run { model =, weights =, batch =, steps =, rate =, ... } -> { log =, seconds =, step =, resumed = }
function train.run(given)
  local o = pb.options(given, OPTIONS, "train.run")
  check(o)
  local trainer <close> = pb.trainer(o.model, o.weights)
  local decays, identity = decays_of(trainer, o.decay), checkpoints.identity(o)
  local file = o.checkpoint and o.checkpoint .. ".safetensors"
  local state, saved_at = { step = 0, tokens = 0, seconds = 0.0, sum = 0.0, count = 0, log = {} }, nil -- step: the next one
  local saved = file and o.resume and trainer:load(file, identity)
  if saved then
    state = checkpoints.state(saved)
    saved_at = state.step
  end
  local resumed, before, start = saved and state.step or nil, state.seconds, trainer:seconds()
  local session_tokens = 0

  local function kept()
    if not file then return "There is no checkpoint (checkpoint = NAME writes one)." end
    return saved_at and ("Checkpoint '%s' of %d steps is kept."):format(file, saved_at) or "No checkpoint had been written yet."
  end
  local function save()
    state.seconds = before + trainer:seconds() - start
    trainer:save(file, identity, checkpoints.text(state))
    saved_at = state.step
  end
  local function report(row)
    print(curve.line(row, o.steps, session_tokens, trainer:seconds() - start, state.step - (resumed or 0)))
  end

  while state.step < math.min(o.steps, o.stop_at) do
    local step = state.step
    local loss, norm, rate, tokens = one_step(trainer, o, decays, step, kept)
    local last = step == o.steps - 1
    state.step, state.sum, state.count = step + 1, state.sum + loss, state.count + 1
    local evaluated = o.evaluate and (last or step % o.evaluate_every == 0) and o.evaluate(step, o.model)
    if evaluated or last or step % o.log_every == 0 then
      local row = { step = step, tokens = state.tokens, loss = loss, mean_loss_since_last = state.sum / state.count, rate = rate,
                    gradient_norm = norm, seconds = before + trainer:seconds() - start }
      for name, value in pairs(evaluated or {}) do row[name] = value end
      state.log[#state.log + 1] = row
      state.sum, state.count = 0.0, 0
      if not o.quiet then report(row) end
    end
    state.tokens, session_tokens = state.tokens + tokens, session_tokens + tokens
    if file and (last or (step + 1) % o.checkpoint_every == 0 or step + 1 >= o.stop_at) then save() end
  end
  if o.curve then train.curve(state.log, o.curve) end
  return { log = state.log, step = state.step, resumed = resumed, seconds = before + trainer:seconds() - start }
end

return train
