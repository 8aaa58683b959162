-- Causal tracing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT"): corrupt the subject's token embeddings,
-- restore one clean state at a time, and see how much of the answer's probability comes back.
--   total effect TE = P(clean) - P(corrupted);  indirect effect of a state IE = P(corrupted, state restored) - P(corrupted)
--   ATE and AIE: their means over facts.
local pb = require "patchbay"
local noise = require "patchbay.noise"

local trace = { sigma = noise.sigma }

local SITES = { block = "resid_post", mlp = "mlp_out", attn = "attn_out" }
local CLASSES = { "first subject token", "middle subject tokens", "last subject token", "first token after", "further tokens", "last token" }
local FACT = { "prompt", "subject", "answer", "noise", "corrupt", "seed", "replace", "subjects", "bos", samples = 10, unknown = "error" }

local function options(given, own, name)
  local known = { kinds = { "block", "mlp", "attn" }, "sever", "memory", window = 10 }
  for key, value in pairs(FACT) do
    if math.type(key) == "integer" then known[#known + 1] = value else known[key] = value end
  end
  for _, key in ipairs(own) do known[#known + 1] = key end
  local o = pb.options(given, known, name)
  o.seed, o.noise = o.seed or pb.seed, o.noise or "s3"
  for _, kind in ipairs(o.kinds) do pb.one_of(kind, { "block", "mlp", "attn" }, name .. ": a kind") end
  pb.one_of(o.unknown, { "error", "trace", "skip" }, name .. ": unknown")
  if math.type(o.window) ~= "integer" or o.window < 1 then pb.fail("%s: window must be a number of layers, got %s", name, tostring(o.window)) end
  return o
end

-- ---- the runs of one fact ----------------------------------------------------------------------------------------------------------

local function subjects_of(model, fact, o)
  local given, ids = o.subjects or (fact.of and fact.of.subjects), {}
  if not given then
    pb.fail("trace: the noise level %s is measured on the embeddings of a list of subjects: give subjects = { \"Eiffel Tower\", ... }, trace facts " ..
            "of data.facts, or give the standard deviation as a number", tostring(o.noise))
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
  local best = s.clean:top(1)[1]
  s.answer = fact.answer == nil and best.id or (type(fact.answer) == "string" and model:token(fact.answer) or fact.answer)
  if pb.metric.rank(s.answer)(s.clean) > 0 and o.unknown ~= "trace" then
    if o.unknown == "skip" then return nil end
    pb.fail("trace: the model answers '%s' with '%s', not with '%s' (unknown = \"trace\" traces it nevertheless%s)", s.clean.text, best.token,
            model.has_tokenizer and model:decode { s.answer } or s.answer, o.average and ", \"skip\" leaves such facts out" or "")
  end
  s.metric = pb.metric.prob(s.answer)
  if o.corrupt then
    s.corrupted = { getmetatable(o.corrupt) == "run" and o.corrupt or s.clean:fork(o.corrupt, type(o.corrupt) == "string" and { bos = o.bos } or nil) }
  else
    if not o.sampler then o.sampler, o.scale = noise.sampler(model, o.noise, function() return subjects_of(model, fact, o) end, o.seed) end
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
  local requests = { { run = s.clean, metric = s.metric } }
  for _, run in ipairs(s.corrupted) do
    requests[#requests + 1] = { run = run, metric = s.metric }
    for _, cell in ipairs(cells) do
      local patches = {}
      for _, place in ipairs(cell.restore) do patches[#patches + 1] = { site = place.site or "resid_post", layer = place.layer, pos = place.pos, from = s.clean } end
      for _, place in ipairs(cell.hold or {}) do
        patches[#patches + 1] = { site = place.site, layer = place.layer, pos = place.pos, from_pos = place.pos, from = run } -- from_pos: see help
      end
      requests[#requests + 1] = { run = run, patches = patches, metric = s.metric }
    end
  end
  local values = pb.measure(requests, { memory = o.memory, allow_unread = true })
  local means = values:narrow(0, 1, #requests - 1):clone():reshape(#s.corrupted, #cells + 1):mean(0)
  return means:narrow(0, 1, #cells):clone(), means:get(0), values:get(0)
end

-- trace.states(model, fact, cells [, options]) -> tensor [cells], low, high: any states restored, any held (ROME's trace_with_repatch)
function trace.states(model, fact, cells, given)
  local o = options(given, {}, "trace.states")
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

local function rome(model, fact, o)
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
  local about = { model = model.name, prompt = s.clean.text, corruption = o.corrupt and "another prompt" or ("noise %s on the subject"):format(tostring(o.noise)),
                  samples = #s.corrupted, seed = o.seed, window = o.window }
  for k, kind in ipairs(o.kinds) do
    local title = kind == "block" and "block" or ("%s, window of %d"):format(kind, o.window)
    result[kind] = pb.grid { values = values:narrow(0, (k - 1) * L * T, L * T):clone():reshape(L, T), axes = { "layer", "pos" }, labels = { pos = s.clean.labels },
                             base = low, target = high, unit = "probability", metric = "prob of the answer", about = about,
                             name = o.sever and ("%s, %s severed"):format(title, o.sever) or title }
  end
  return result
end

-- trace.rome(model, fact [, options]) -> { block =, mlp =, attn = (grids [layer, pos]), low =, high =, ... }
function trace.rome(model, fact, given)
  local o = options(given, {}, "trace.rome")
  if o.sever then pb.one_of(o.sever, { "mlp", "attn" }, "trace.rome: sever") end
  return rome(model, fact, o)
end

-- ---- many facts --------------------------------------------------------------------------------------------------------------------

-- For each token its class (1 to 6). The last token of the prompt is that, whatever else it is; a subject of one token is its last.
function trace.classes(subject, length)
  local classes, first, last = {}, subject[1], subject[#subject]
  for pos = 0, length - 1 do
    local class = pos == last and 3 or pos == first and 1 or pos > first and pos < last and 2 or pos == last + 1 and 4 or pos > last and 5 or nil
    classes[pos + 1] = pos == length - 1 and 6 or class or 0
  end
  return classes
end

-- [layer, class]: the mean over a fact's tokens of each class, 0 where it has none; and [class]: 1 where it has some.
local function by_class(values, classes)
  local columns, there = {}, {}
  for c = 1, #CLASSES do
    local places = {}
    for i, class in ipairs(classes) do
      if class == c then places[#places + 1] = i - 1 end
    end
    there[c] = #places > 0 and 1 or 0
    columns[c] = #places > 0 and values:index(1, places):mean(1) or pb.zeros(values.shape[1])
  end
  return pb.stack(columns, 1), pb.tensor(there)
end

-- Mean and standard error over the first axis of values [n, ...], where there = 1; NaN where nothing is.
local function mean_of(values, there)
  local n = there:sum(0)
  local mean = (values * there):sum(0) / n
  return mean, (((values - mean) * there):square():sum(0) / (n * (n - 1))):sqrt(), n
end

-- trace.average(model, facts [, options]) -> { block =, mlp =, attn = (grids [layer, class] of indirect effects), ate =, ... }
function trace.average(model, facts, given)
  local o = options(given, {}, "trace.average")
  o.average = true
  local kept, skipped, effects, sums, there = {}, 0, {}, {}, {}
  for _, kind in ipairs(o.kinds) do sums[kind] = {} end
  for i = 1, #facts do
    local one = rome(model, facts[i], o)
    if one then
      kept[#kept + 1] = { low = one.low, high = one.high, fact = facts[i] }
      effects[#kept] = one.high - one.low
      for _, kind in ipairs(o.kinds) do
        sums[kind][#kept], there[#kept] = by_class(one[kind].values - one.low, trace.classes(one.positions, #one.clean))
      end
    else
      skipped = skipped + 1
    end
  end
  if #kept == 0 then pb.fail("trace.average: no facts are left (%d given, %d skipped because the model does not know them)", #facts, skipped) end
  local function mean_field(field)
    local sum = 0
    for _, one in ipairs(kept) do sum = sum + one[field] end
    return sum / #kept
  end
  local ate, ate_se = mean_of(pb.tensor(effects), pb.ones(#kept))
  local all = { ate = ate:item(), ate_se = ate_se:item(), low = mean_field "low", high = mean_field "high", n = #kept, skipped = skipped, facts = kept, scale = o.scale }
  for _, kind in ipairs(o.kinds) do
    local mean, se, n = mean_of(pb.stack(sums[kind]), pb.stack(there):unsqueeze(1))
    all.counts = n:tolist()
    all[kind] = pb.grid { values = mean, se = #kept > 1 and se or nil, axes = { "layer", "class" }, labels = { class = CLASSES }, base = 0, target = all.ate,
                          unit = "average indirect effect", metric = "prob of the answer", name = kind == "block" and kind or ("%s, window of %d"):format(kind, o.window),
                          about = { model = model.name, facts = #kept, noise = tostring(o.noise), samples = o.samples, window = o.window, seed = o.seed } }
  end
  return all
end

-- trace.lines(all) -> figure: the average effect by layer, a line with its 95 % interval for each class of tokens
function trace.lines(all, settings)
  local figure = pb.figure(settings or { title = ("Average indirect effect over %d facts (total effect %.3f)"):format(all.n, all.ate) })
  for _, kind in ipairs { "block", "mlp", "attn" } do
    local series = {}
    for c, class in ipairs(all[kind] and CLASSES or {}) do
      if all.counts[c] > 0 then
        local y, se = all[kind].values:select(1, c - 1):contiguous(), all[kind].se and all[kind].se:select(1, c - 1):contiguous()
        series[#series + 1] = { y = y, label = class, low = se and y - se * 1.96, high = se and y + se * 1.96 }
      end
    end
    if all[kind] then figure:lines { series = series, title = all[kind].name, x_title = "layer", y_title = "average indirect effect" } end
  end
  return figure
end

return trace
