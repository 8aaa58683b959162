-- Training: weights from a configuration, AdamW under a schedule, checkpoints from which a run goes on bit for bit, and the loss
-- curve. One step is two calls of C (pb.trainer); what a batch is, a function of the step's number says, so that nothing of the
-- data needs to be kept in a checkpoint. Sequences have their own lengths: a batch is packed, and nothing is padded.
local pb = require "patchbay"
local records = require "patchbay.records"

local train = {}

-- ---- weights ---------------------------------------------------------------------------------------------------------------

local function gpt2_shapes(c)
  local d, shapes = c.n_embd, {}
  local inner = type(c.n_inner) == "number" and c.n_inner or 4 * d
  local function add(name, ...) shapes["transformer." .. name] = { ... } end
  add("wte.weight", c.vocab_size, d)
  add("wpe.weight", c.n_positions, d)
  for l = 0, c.n_layer - 1 do
    local h = ("h.%d."):format(l)
    for _, norm in ipairs { "ln_1", "ln_2" } do
      add(h .. norm .. ".weight", d)
      add(h .. norm .. ".bias", d)
    end
    for name, size in pairs { ["attn.c_attn"] = { d, 3 * d }, ["attn.c_proj"] = { d, d }, ["mlp.c_fc"] = { d, inner }, ["mlp.c_proj"] = { inner, d } } do
      add(h .. name .. ".weight", size[1], size[2])
      add(h .. name .. ".bias", size[2])
    end
  end
  add("ln_f.weight", d)
  add("ln_f.bias", d)
  if c.tie_word_embeddings == false then shapes["lm_head.weight"] = { c.vocab_size, d } end
  return shapes
end

local function llama_shapes(c)
  local d, heads, shapes = c.hidden_size, c.num_attention_heads, {}
  local width = (type(c.head_dim) == "number" and c.head_dim or d // heads)
  local kv = (c.num_key_value_heads or heads) * width
  shapes["model.embed_tokens.weight"], shapes["model.norm.weight"] = { c.vocab_size, d }, { d }
  for l = 0, c.num_hidden_layers - 1 do
    local function add(name, ...) shapes[("model.layers.%d.%s.weight"):format(l, name)] = { ... } end
    add("input_layernorm", d)
    add("post_attention_layernorm", d)
    add("self_attn.q_proj", heads * width, d)
    add("self_attn.k_proj", kv, d)
    add("self_attn.v_proj", kv, d)
    add("self_attn.o_proj", d, heads * width)
    add("mlp.gate_proj", c.intermediate_size, d)
    add("mlp.up_proj", c.intermediate_size, d)
    add("mlp.down_proj", d, c.intermediate_size)
  end
  if not c.tie_word_embeddings then shapes["lm_head.weight"] = { c.vocab_size, d } end
  return shapes
end

local FAMILIES = { gpt2 = gpt2_shapes, llama = llama_shapes }
local TABLE = { ["transformer.wte.weight"] = true, ["transformer.wpe.weight"] = true, ["model.embed_tokens.weight"] = true }

-- What a weight is: "norm", "bias", "table" (rows are looked up), "writer" (writes to the residual stream) or "reader".
local function role_of(name, shape)
  if name:find "bias$" then return "bias" end
  if #shape == 1 then return "norm" end
  if TABLE[name] then return "table" end
  return (name:find "c_proj" or name:find "o_proj" or name:find "down_proj") and "writer" or "reader"
end

-- Half of the dimensions as sines and cosines: "the token before" is then one linear map for all positions from the start.
local function sines(positions, d, amplitude)
  local quarter, rows = d // 4, {}
  for p = 1, positions do
    local row = {}
    for i = 1, d do row[i] = 0.0 end
    for i = 0, quarter - 1 do
      local angle = (p - 1) * 100.0 ^ (-i / quarter)
      row[i + 1], row[quarter + i + 1] = amplitude * math.sin(angle), amplitude * math.cos(angle)
    end
    rows[p] = row
  end
  return pb.tensor(rows)
end

-- train.init(config [, { scheme = "range" | "fan_in", std =, embedding =, sines = false, seed = }]) -> { [name] = tensor }
function train.init(config, given)
  local o = pb.options(given, { scheme = "range", sines = false, seed = pb.seed, "std", "embedding" }, "train.init")
  pb.one_of(o.scheme, { "range", "fan_in" }, "train.init: scheme")
  local known = {}
  for family in pairs(FAMILIES) do known[#known + 1] = family end
  table.sort(known)
  local shapes = FAMILIES[pb.one_of(type(config) == "table" and config.model_type, known, "train.init: config.model_type")](config)
  local std = o.std or type(config.initializer_range) == "number" and config.initializer_range or 0.02
  local layers, names, weights = config.n_layer or config.num_hidden_layers, {}, {}
  for name in pairs(shapes) do names[#names + 1] = name end
  table.sort(names)
  for draw, name in ipairs(names) do
    local shape = shapes[name]
    local role = role_of(name, shape)
    if role == "norm" or role == "bias" then
      weights[name] = role == "norm" and pb.ones(shape) or pb.zeros(shape)
    elseif o.sines and name == "transformer.wpe.weight" then
      weights[name] = sines(shape[1], shape[2], o.sines == true and 0.2 or o.sines)
    else
      local fan_in = config.model_type == "gpt2" and role ~= "table" and shape[1] or shape[2]
      local deviation = role == "table" and (o.embedding or std) or o.scheme == "fan_in" and fan_in ^ -0.5 or std
      if role == "writer" then deviation = deviation / math.sqrt(2 * layers) end
      weights[name] = pb.randn { shape[1], shape[2], seed = o.seed, draw = draw }:mul_(deviation)
    end
  end
  return weights
end

-- ---- schedules ----------------------------------------------------------------------------------------------------------------

-- Steps count from 0 here: rate(step).
function train.constant(rate, warmup)
  return function(step) return rate * math.min(1, (step + 1) / (warmup or 1)) end
end

-- Linear warm-up, then half a cosine from rate down to least at the last step.
function train.cosine(given)
  local o = pb.options(given, { warmup = 0, least = 0, "rate", "steps" }, "train.cosine")
  if not (o.rate and o.steps) then pb.fail "train.cosine needs rate and steps" end
  return function(step)
    if step < o.warmup then return o.rate * (step + 1) / o.warmup end
    local share = (step - o.warmup) / math.max(1, o.steps - 1 - o.warmup)
    return o.least + (o.rate - o.least) * 0.5 * (1 + math.cos(math.pi * math.min(1, share)))
  end
end

-- Straight lines between { step, rate } points, constant before the first and after the last. Two points at one step: a jump.
function train.piecewise(points)
  if type(points) ~= "table" or #points == 0 then pb.fail "train.piecewise takes a list of { step, rate }" end
  for i, p in ipairs(points) do
    if type(p) ~= "table" or type(p[1]) ~= "number" or type(p[2]) ~= "number" then pb.fail("train.piecewise: point %d is not { step, rate }", i) end
    if i > 1 and p[1] < points[i - 1][1] then pb.fail("train.piecewise: the step of point %d is before that of point %d", i, i - 1) end
  end
  return function(step)
    local before
    for _, p in ipairs(points) do
      if step < p[1] then
        if not before then return p[2] end
        return before[2] + (p[2] - before[2]) * (step - before[1]) / (p[1] - before[1])
      end
      before = p
    end
    return before[2]
  end
end

-- ---- batches --------------------------------------------------------------------------------------------------------------------

-- train.batches(list of { tokens =, predict =, patches = } or of lists of ids, { tokens = 1536, seed = }) -> function(step): each pass
-- over the data in a new order, as many sequences to a batch as fit the number of tokens.
function train.batches(sequences, given)
  local o = pb.options(given, { tokens = 1536, seed = pb.seed }, "train.batches")
  local list = {}
  for i, s in ipairs(sequences) do
    list[i] = s.tokens and s or { tokens = s }
    if #list[i].tokens > o.tokens then pb.fail("train.batches: sequence %d has %d tokens, a batch %d", i, #list[i].tokens, o.tokens) end
  end
  if #list == 0 then pb.fail "train.batches: there are no sequences" end
  local passes, first = {}, { 0 } -- passes[k]: the batches of pass k; first[k]: the step that it begins at
  local function pass(k)
    if not passes[k] then
      local batches, current, room = {}, nil, 0
      for _, i in ipairs(records.shuffled(#list, o.seed, k)) do
        local n = #list[i].tokens
        if n > room then
          current, room = {}, o.tokens
          batches[#batches + 1] = current
        end
        current[#current + 1], room = list[i], room - n
      end
      passes[k], passes[k - 2] = batches, nil
      first[k + 1] = first[k] + #batches
    end
    return passes[k]
  end
  return function(step)
    local k = 1
    while true do
      if first[k + 1] == nil then pass(k) end
      if step < first[k + 1] then return pass(k)[step - first[k] + 1] end
      k = k + 1
    end
  end
end

-- Dropout where GPT-2 has it: on the embeddings, the patterns, and what attention and MLP write. One draw for each entry.
local DROPOUT_SITES = { { "resid_pre", 0 }, { "pattern" }, { "attn_out" }, { "mlp_out" } }

local function with_dropout(sequences, step, o, layers)
  local list = {}
  for i, s in ipairs(sequences) do
    local patches = {}
    for _, p in ipairs(s.patches or {}) do patches[#patches + 1] = p end
    for k, place in ipairs(o.dropout.sites) do
      for layer = place[2] or 0, place[2] or layers - 1 do
        local draw = (((step << 16) + i) * layers + layer) * #o.dropout.sites + k
        patches[#patches + 1] = { site = place[1], layer = layer, dropout = { rate = o.dropout.rate, seed = o.dropout.seed, draw = draw } }
      end
    end
    list[i] = { tokens = s.tokens, predict = s.predict, patches = patches }
  end
  return list
end

-- ---- a run --------------------------------------------------------------------------------------------------------------------------

local OPTIONS = { "model", "weights", "batch", "steps", "rate", "dropout", "evaluate", "checkpoint", "curve", "about",
                  betas = { 0.9, 0.999 }, eps = 1e-8, decay = 0.1, clip = 1.0, resume = true,
                  checkpoint_every = 500, evaluate_every = 500, log_every = 100, quiet = false, stop_at = math.huge }

local function check(o)
  for _, name in ipairs { "model", "weights", "batch", "steps", "rate" } do
    if o[name] == nil then pb.fail("train.run needs %s", name) end
  end
  if type(o.batch) ~= "function" then pb.fail "train.run: batch must be a function(step) that gives a list of sequences" end
  if math.type(o.steps) ~= "integer" or o.steps < 1 then pb.fail "train.run: steps must be a positive integer" end
  if type(o.rate) == "number" then o.rate = train.constant(o.rate) end
  if o.dropout then
    local d = type(o.dropout) == "number" and { rate = o.dropout } or o.dropout
    o.dropout = pb.options(d, { seed = pb.seed, sites = DROPOUT_SITES, "rate" }, "train.run: dropout")
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

-- A text of what must be the same for a run to go on from a checkpoint. The schedule by its values at some steps.
local function identity_of(o)
  local parts = { o.about or "", o.model.family, tostring(o.model.parameters), ("steps %d"):format(o.steps),
                  ("betas %.17g %.17g"):format(o.betas[1], o.betas[2]), ("eps %.17g clip %.17g"):format(o.eps, o.clip or 0),
                  type(o.decay) == "number" and ("decay %.17g"):format(o.decay) or "decay by name",
                  o.dropout and ("dropout %.17g seed %d"):format(o.dropout.rate, o.dropout.seed) or "no dropout" }
  for i = 0, 8 do parts[#parts + 1] = ("%.9g"):format(o.rate((o.steps - 1) * i // 8)) end
  return table.concat(parts, "; ")
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

local function duration(seconds)
  local s = math.floor(seconds + 0.5)
  if s < 60 then return ("%d s"):format(s) end
  if s < 3600 then return ("%d min %02d s"):format(s // 60, s % 60) end
  return ("%d h %02d min"):format(s // 3600, s % 3600 // 60)
end

local COLUMNS = { "step", "tokens", "loss", "mean_loss_since_last", "rate", "gradient_norm", "seconds" }

local function columns_of(log)
  local columns, extra, seen = table.move(COLUMNS, 1, #COLUMNS, 1, {}), {}, {}
  for _, name in ipairs(COLUMNS) do seen[name] = true end
  for _, row in ipairs(log) do
    for name in pairs(row) do
      if not seen[name] then
        seen[name] = true
        extra[#extra + 1] = name
      end
    end
  end
  table.sort(extra)
  return table.move(extra, 1, #extra, #columns + 1, columns)
end

-- train.curve(log, name): NAME.csv and NAME.png of a log as train.run gives it.
function train.curve(log, name)
  pb.write(name .. ".csv", log, { columns = columns_of(log) })
  if #log < 2 then return end
  local x, y, mean = {}, {}, {}
  for i, row in ipairs(log) do x[i], y[i], mean[i] = row.step, row.loss, row.mean_loss_since_last end
  pb.plot.line { { x = x, y = mean, label = "mean since the last point" }, { x = x, y = y, label = "of this step", dashed = true },
                 x = "step", y = "loss (nats per token)", title = "Training loss" }:save(name .. ".png")
end

local function state_text(s)
  local text = { ("step=%d;tokens=%d;seconds=%.17g;sum=%.17g;count=%d"):format(s.step, s.tokens, s.seconds, s.sum, s.count) }
  for _, row in ipairs(s.log) do
    local names, parts = {}, {}
    for name in pairs(row) do names[#names + 1] = name end
    table.sort(names)
    for i, name in ipairs(names) do parts[i] = ((math.type(row[name]) == "integer") and "%s=%d" or "%s=%.17g"):format(name, row[name]) end
    text[#text + 1] = table.concat(parts, ";")
  end
  return table.concat(text, "\n")
end

local function state_of(text)
  local function fields(line)
    local row = {}
    for name, value in line:gmatch "([^=;]+)=([^=;]+)" do row[name] = tonumber(value) end
    return row
  end
  local state
  for line in text:gmatch "[^\n]+" do
    if not state then
      state = fields(line)
      state.log = {}
    else
      state.log[#state.log + 1] = fields(line)
    end
  end
  return state
end

-- One step: gradients, the check, the update. Returns the loss, the norm before clipping and the rate.
local function one_step(trainer, o, decays, step, kept)
  local sequences = o.batch(step)
  if type(sequences) ~= "table" or #sequences == 0 then pb.fail("train.run: batch(%d) gave no sequences", step) end
  local tokens = 0
  for _, s in ipairs(sequences) do tokens = tokens + #s.tokens end
  if o.dropout then sequences = with_dropout(sequences, step, o, o.model.layers) end
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
  local decays, identity = decays_of(trainer, o.decay), identity_of(o)
  local file = o.checkpoint and o.checkpoint .. ".safetensors"
  local state, saved_at = { step = 0, tokens = 0, seconds = 0.0, sum = 0.0, count = 0, log = {} }, nil -- step: the next one
  local saved = file and o.resume and trainer:load(file, identity)
  if saved then
    state = state_of(saved)
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
    trainer:save(file, identity, state_text(state))
    saved_at = state.step
  end
  local function report(row)
    local now = trainer:seconds() - start
    local speed = session_tokens / math.max(now, 1e-9)
    local left = now * (o.steps - state.step) / math.max(1, state.step - (resumed or 0))
    local parts = { ("step %d of %d: loss %.4f (mean %.4f), rate %.3g, norm %.3g"):format(row.step, o.steps, row.loss, row.mean_loss_since_last, row.rate, row.gradient_norm),
                    ("%.0f tokens/s, %s left"):format(speed, duration(left)) }
    local extra = columns_of { row }
    for i = #COLUMNS + 1, #extra do parts[#parts + 1] = ("%s %.4g"):format(extra[i], row[extra[i]]) end
    print(table.concat(parts, "; "))
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
