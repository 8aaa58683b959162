-- Causal tracing (Meng et al. 2022): where a model keeps a fact. The method for one fact is patchbay/rome.lua; here are its means over
-- facts, by class of token: ATE, the mean total effect P(clean) - P(corrupted), and AIE, the mean of P(corrupted, state restored) -
-- P(corrupted). Beside them: where an answer is lost (divergence) and what the subject's states hold (enrichment).
local pb = require "patchbay"
local noise, rome, enrichment = require "patchbay.noise", require "patchbay.rome", require "patchbay.enrichment"

local trace = { sigma = noise.sigma, severed = require "patchbay.severed", knockout = enrichment.knockout, states_say = enrichment.states, says = enrichment.says,
                divergence = require "patchbay.divergence" }

local CLASSES = { "first subject token", "middle subject tokens", "last subject token", "first token after", "further tokens", "last token" }

-- trace.rome(model, fact [, options]) -> { block =, mlp =, attn = (grids [layer, pos]), low =, high =, ... }
function trace.rome(model, fact, given)
  return rome.trace(model, fact, rome.options(model, given, "trace.rome"))
end

-- trace.states(model, fact, cells [, options]) -> tensor [cells], low, high; a cell is { restore = places, hold = places }
function trace.states(model, fact, cells, given)
  return rome.states(model, fact, cells, rome.options(model, given, "trace.states"))
end

-- For each token its class (1 to 6). The last token of the prompt is that, whatever else it is; a subject of one token is its last.
function trace.classes(subject, length)
  local classes, first, last = {}, subject[1], subject[#subject]
  for pos = 0, length - 1 do
    local class = pos == last and 3 or pos == first and 1 or pos > first and pos < last and 2 or pos == last + 1 and 4 or pos > last and 5 or nil
    classes[pos + 1] = pos == length - 1 and 6 or class or 0
  end
  return classes
end

-- [layer, class]: the mean over a fact's tokens of each class, 0 where it has none; and [class]: how many tokens it has.
local function by_class(values, classes)
  local columns, there = {}, {}
  for c = 1, #CLASSES do
    local places = {}
    for i, class in ipairs(classes) do
      if class == c then places[#places + 1] = i - 1 end
    end
    there[c] = #places
    columns[c] = #places > 0 and values:index(1, places):mean(1) or pb.zeros(values.shape[1])
  end
  return pb.stack(columns, 1), pb.tensor(there)
end

-- Mean and standard error over the first axis of values [n, ...] with these weights; NaN where nothing is.
local function mean_of(values, weights)
  local n, total = weights:gt(0):sum(0), weights:sum(0)
  local mean = (values * weights):sum(0) / total
  return mean, (((values - mean) * weights):square():sum(0) * n / (n - 1)):sqrt() / total
end

-- A set of pairs as facts that are corrupted by the other prompt.
local function facts_of_pairs(set)
  local list = {}
  for i = 1, #set do
    local pair = set[i]
    list[i] = { prompt = pair.clean.text, run = pair.clean, corrupt = pair.corrupt, answer = pair.answer[1], positions = set:position("subject", i) }
  end
  return list
end

-- The averages as a table: each class of tokens by layer, and its largest effect with the 95 % interval.
local Average = {}
function Average:__tostring()
  local lines = { ("%d facts: probability of the answer %.3f clean, %.3f corrupted; average total effect %.3f ± %.3f"):format(
    self.n, self.high, self.low, self.ate, 1.96 * self.ate_se) }
  for _, kind in ipairs { "block", "mlp", "attn" } do
    local grid = self[kind]
    if grid then lines[#lines + 1] = ("%s; average indirect effect by layer, and the largest ± 95 %%"):format(grid.name) end
    for c, class in ipairs(grid and CLASSES or {}) do
      local values, words, best = grid.values:select(1, c - 1):tolist(), {}, 1
      for l, x in ipairs(values) do words[l], best = ("%5.2f"):format(x):gsub("%-(0%.00)$", " %1"), x > values[best] and l or best end
      local se = grid.se and (" ± %.2f"):format(1.96 * grid.se:get(best - 1, c - 1)) or ""
      lines[#lines + 1] = self.counts[c] == 0 and ("  %-22s none"):format(class)
        or ("  %-22s %s   %.2f%s in layer %d"):format(class, table.concat(words, " "), values[best], se, best - 1)
    end
  end
  return table.concat(lines, "\n")
end

-- trace.average(model, facts | set [, options]) -> { block =, mlp =, attn = (grids [layer, class] of indirect effects), ate =, ... }
function trace.average(model, facts, given)
  local own = {}
  for key, value in pairs(given or {}) do own[key] = value end
  local each = pb.one_of(own.each or "fact", { "fact", "token" }, "trace.average: each")
  own.each = nil
  local o = rome.options(model, own, "trace.average")
  o.average = true
  if getmetatable(facts) == "set" then facts, o.corrupt = facts_of_pairs(facts), true end
  o.subjects = o.subjects or facts.subjects
  if not o.subjects and not o.corrupt then
    o.subjects = {}
    for _, fact in ipairs(facts) do o.subjects[#o.subjects + 1] = type(fact.subject) == "string" and fact.subject or nil end
    if #o.subjects == 0 then o.subjects = nil end
  end
  local kept, skipped, effects, sums, there = {}, 0, {}, {}, {}
  for _, kind in ipairs(o.kinds) do sums[kind] = {} end
  for i = 1, #facts do
    local one = rome.trace(model, facts[i], o)
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
    local tokens = pb.stack(there)
    local mean, se = mean_of(pb.stack(sums[kind]), (each == "token" and tokens or tokens:gt(0)):unsqueeze(1))
    all.counts = tokens:gt(0):sum(0):tolist()
    all[kind] = pb.grid { values = mean, se = #kept > 1 and se or nil, axes = { "layer", "class" }, labels = { class = CLASSES }, base = 0, target = all.ate,
                          unit = "average indirect effect", metric = "prob of the answer", name = kind == "block" and kind or ("%s, window of %d"):format(kind, o.window),
                          about = { model = model.name, facts = #kept, noise = noise.text(o.noise), samples = o.samples, window = o.window, seed = o.seed, each = each,
                                    items = "facts", base_is = "nothing restored", target_is = "total effect" } }
  end
  return setmetatable(all, Average)
end

-- trace.lines(all) -> figure: the average effect by layer, a line with its 95 % interval for each class of tokens
function trace.lines(all, settings)
  local figure = pb.figure(settings or { title = ("Average indirect effect over %d facts (total effect %.3f)"):format(all.n, all.ate), columns = 3 })
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
