-- Causal tracing of one fact (Meng et al. 2022, "Locating and Editing Factual Associations in GPT"): corrupt the subject's token embeddings,
-- restore one clean state at a time, and see how much of the answer's probability comes back.
--   total effect TE = P(clean) - P(corrupted);  indirect effect of a state IE = P(corrupted, state restored) - P(corrupted)
-- trace.rome and trace.states are made of this; trace.average has the means over facts.
local pb = require "patchbay"
local noise = require "patchbay.noise"

local rome = {}

local SITES = { block = "resid_post", mlp = "mlp_out", attn = "attn_out" }
local OPTIONS = { "corrupt", "replace", "subjects", "bos", "sever", "memory", "seed", "window", "wide", noise = "s3", samples = 10,
                  kinds = { "block", "mlp", "attn" }, unknown = "error" }

-- The options of every function here, checked, with their defaults.
function rome.options(model, given, name)
  local o = pb.options(given, OPTIONS, name)
  o.seed = o.seed or pb.seed
  for _, kind in ipairs(o.kinds) do pb.one_of(kind, { "block", "mlp", "attn" }, name .. ": a kind") end
  if o.sever then pb.one_of(o.sever, { "mlp", "attn" }, name .. ": sever") end
  pb.one_of(o.unknown, { "error", "trace", "skip" }, name .. ": unknown")
  o.window = o.window or math.min(10, model.layers) -- 10 in the paper
  if math.type(o.window) ~= "integer" or o.window < 1 then pb.fail("%s: window must be a number of layers, got %s", name, tostring(o.window)) end
  if o.window > model.layers and not o.wide then
    pb.fail("%s: a window of %d layers is wider than the model, which has %d (wide = true cuts it off, as ROME's code does)", name, o.window, model.layers)
  end
  if math.type(o.samples) ~= "integer" or o.samples < 1 then pb.fail("%s: samples must be a positive number, got %s", name, tostring(o.samples)) end
  return o
end

-- ---- the runs of one fact ----------------------------------------------------------------------------------------------------------

-- Whose embeddings set the scale: those given, those of the data set that the fact is from, else the fact's own subject.
local function subjects_of(model, fact, s, o)
  local given, ids = o.subjects or (fact.of and fact.of.subjects), {}
  if not given then
    for i, pos in ipairs(s.subject) do ids[i] = s.clean.tokens[pos + 1] end
    return { ids }
  end
  for i, subject in ipairs(given) do ids[i] = type(subject) == "string" and model:encode(subject, { bos = false }) or subject end
  return ids
end

-- The clean run, where the subject is, the answer, and the corrupted runs: one for each sample of noise, or the other prompt.
local function setup(model, fact, o)
  if type(fact) ~= "table" or not fact.prompt then pb.fail("trace: a fact is { prompt =, subject =, answer = }") end
  local prompt, s = fact.prompt, {}
  if type(prompt) == "string" and type(fact.subject) == "string" then prompt = prompt:gsub("{}", (fact.subject:gsub("%%", "%%%%"))) end
  s.clean = fact.run and fact.run.model == model and fact.run or model:run(prompt, type(prompt) == "string" and { bos = o.bos } or nil)
  s.subject = type(fact.subject) == "table" and fact.subject or fact.positions or s.clean:find(fact.subject)
  if type(s.subject) == "number" then s.subject = { s.subject } end
  local best = s.clean:top(1)[1]
  s.answer = fact.answer == nil and best.id or (type(fact.answer) == "string" and model:token(fact.answer) or fact.answer)
  if pb.metric.rank(s.answer)(s.clean) > 0 and o.unknown ~= "trace" then
    if o.unknown == "skip" then return nil end
    pb.fail("trace: the model answers '%s' with '%s', not with '%s' (unknown = \"trace\" traces it nevertheless%s)", s.clean.text, best.token,
            model.has_tokenizer and model:decode { s.answer } or s.answer, o.average and ", \"skip\" leaves such facts out" or "")
  end
  s.metric = pb.metric.prob(s.answer)
  local other = o.corrupt
  if other == true then other = fact.corrupt or pb.fail("trace: corrupt = true takes the other prompt from the fact, and '%s' has none", s.clean.text) end
  if other then
    s.corrupted = { getmetatable(other) == "run" and other or s.clean:fork(other, type(other) == "string" and { bos = o.bos } or nil) }
  else
    if not o.sampler then o.sampler, o.scale = noise.sampler(model, o.noise, function() return subjects_of(model, fact, s, o) end, o.seed) end
    s.corrupted = {}
    for j = 1, o.samples do
      s.corrupted[j] = s.clean:patched { { site = "hook_embed", pos = s.subject, [o.replace and "value" or "add"] = o.sampler(#s.subject, j - 1) } }
    end
  end
  return s
end

-- Mean over the corrupted runs of the answer's probability, for each cell { restore = places, hold = places }: restored places take
-- the clean value; held ones keep the value of the corrupted pass before anything was restored. All in one pass.
local function measure(s, cells, o)
  local requests, everywhere = { { run = s.clean, metric = s.metric } }, {}
  for pos = 1, #s.clean do everywhere[pos] = pos - 1 end
  for _, run in ipairs(s.corrupted) do
    requests[#requests + 1] = { run = run, metric = s.metric }
    for _, cell in ipairs(cells) do
      local patches = {}
      for _, place in ipairs(cell.restore) do
        patches[#patches + 1] = { site = place.site or "resid_post", layer = place.layer, pos = place.pos, from = s.clean }
      end
      for _, place in ipairs(cell.hold or {}) do -- from_pos: a run's own values are not left out as a patch that changes nothing
        local pos = (place.pos == nil or place.pos == "all") and everywhere or place.pos
        patches[#patches + 1] = { site = place.site, layer = place.layer, pos = pos, from_pos = pos, from = run }
      end
      requests[#requests + 1] = { run = run, patches = patches, metric = s.metric }
    end
  end
  local values = pb.measure(requests, { memory = o.memory, allow_unread = true })
  local means = values:narrow(0, 1, #requests - 1):clone():reshape(#s.corrupted, #cells + 1):mean(0)
  return means:narrow(0, 1, #cells):clone(), means:get(0), values:get(0)
end

-- Tensor [cells], low, high: any states restored, any held (ROME's trace_with_repatch).
function rome.states(model, fact, cells, o)
  return measure(setup(model, fact, o), cells, o)
end

-- ---- one fact ----------------------------------------------------------------------------------------------------------------------

-- Layers l - w div 2 .. l + ceil(w / 2) - 1, cut off at the ends of the model.
local function window_layers(model, layer, w)
  local layers = {}
  for l = math.max(0, layer - w // 2), math.min(model.layers, layer + (w + 1) // 2) - 1 do layers[#layers + 1] = l end
  return layers
end

local function layers_above(model, layer)
  local layers = {}
  for l = layer + 1, model.layers - 1 do layers[#layers + 1] = l end
  return layers
end

-- Every state of the wanted kinds; nil if the model does not know the fact and such facts are to be skipped.
function rome.trace(model, fact, o)
  local s = setup(model, fact, o)
  if not s then return nil end
  local cells, L, T = {}, model.layers, #s.clean
  for _, kind in ipairs(o.kinds) do
    for layer = 0, L - 1 do
      for pos = 0, T - 1 do
        local layers = kind == "block" and { layer } or window_layers(model, layer, o.window)
        local above = o.sever and layers_above(model, layers[#layers]) or {}
        cells[#cells + 1] = { restore = { { site = SITES[kind], layer = layers, pos = pos } },
                              hold = #above > 0 and { { site = SITES[o.sever], layer = above, pos = pos } } or nil }
      end
    end
  end
  local values, low, high = measure(s, cells, o)
  local result = { low = low, high = high, answer = s.answer, scale = o.scale, positions = s.subject, clean = s.clean }
  local about = { model = model.name, prompt = s.clean.text, corruption = o.corrupt and "another prompt" or ("noise %s on the subject"):format(noise.text(o.noise)),
                  samples = #s.corrupted, seed = o.seed, window = o.window, base_is = "nothing restored", target_is = "clean" }
  for k, kind in ipairs(o.kinds) do
    local title = kind == "block" and "block" or ("%s, window of %d"):format(kind, o.window)
    result[kind] = pb.grid { values = values:narrow(0, (k - 1) * L * T, L * T):clone():reshape(L, T), axes = { "layer", "pos" }, labels = { pos = s.clean.labels },
                             base = low, target = high, unit = "probability", metric = "prob of the answer", about = about,
                             name = o.sever and ("%s, %s severed"):format(title, o.sever) or title }
  end
  return result
end

return rome
