-- AtP* (Kramár, Lieberum, Shah, Nanda 2024, arXiv 2403.00745): attribution patching with two repairs.
--   QK fix    a patched query or key goes through the softmax exactly; only what comes after it is linear. Where attention is
--             saturated the plain estimate is near zero, however much the patch would move the pattern.
--   GradDrop  direct and indirect effects can cancel in one gradient. Take the gradient once for each layer without what passes
--             through that layer's attention and MLP, and average the sizes: c = 1/(L-1) sum over layers |estimate|.
local pb = require "patchbay"
local cells, plans, scores = require "patchbay.cells", require "patchbay.plan", require "patchbay.scores"

local atp = {}

-- The plan of a table; with query_heads keys have a column for each query head instead of those that share it.
function atp.plan(set, o, name)
  if not o.query_heads then return plans.new(set, o, name) end
  local own, heads = {}, {}
  for key, value in pairs(o) do own[key] = value end
  if set.model:site(o.site).name ~= "k" or not o.qk_fix then pb.fail("%s: query_heads is for site \"k\" with qk_fix = true", name) end
  for h = 1, set.model.heads do heads[h] = h - 1 end
  own.head = o.head or heads
  return plans.new(set, own, name)
end

function atp.applies(plan) return plan.info.name == "q" or plan.info.name == "k" end

-- What atp.fixed needs besides the gradient at q or k.
function atp.sites(plan)
  local list = {}
  for _, layer in ipairs(atp.applies(plan) and plans.layers(plan) or {}) do list[#list + 1] = { site = "pattern", layer = layer } end
  return list
end

-- Pattern and scores of a layer with all its queries (or keys) from the other run. A query moves its own row alone, so that all
-- positions can be patched together and each row is that of one patch.
local function moved(base, other, site, layer)
  local variant = { { { site = site, layer = layer, from = other } } }
  local pattern, attention = ("blocks.%d.attn.hook_pattern"):format(layer), ("blocks.%d.attn.hook_attn_scores"):format(layer)
  local captured = base:capture(variant, { pattern, attention }, { allow_unread = true })[1]
  return captured[pattern], captured[attention]
end

-- All others of a row: sum over m ~= j, for every j, by running sums from both ends. No difference of nearly equal numbers.
local function sum_of_others(x)
  local n = x.shape[3]
  local back, shifted = {}, pb.zeros(x.shape[1], x.shape[2], 1)
  for j = 1, n do back[j] = n - j end
  local function before(t) return n > 1 and pb.concat({ shifted, t:narrow(2, 0, n - 1):contiguous():cumsum(2) }, 2) or shifted end
  return before(x) + before(x:index(2, back)):index(2, back)
end

-- The effect of key j on a row of the softmax, O(1) for each key of each row. With the key's score moved by d, its weight is
-- w = p e^d of w + rest, rest being the sum of all others: the row's mean of g moves by (w - p) (rest g_j - a_j) / (w + rest),
-- a_j the sum of p g over the others. Everything is scaled by e^-max(d, 0), so that nothing overflows.
local function key_effects(pattern, g, d)
  local top = d:maximum(0)
  local own, patched = pattern * (-top):exp(), pattern * (d - top):exp()
  local rest, others = sum_of_others(pattern), sum_of_others(pattern * g)
  local sink = (1 - pattern:sum(2, true)):maximum(0) -- weight that goes nowhere, in families that have it
  sink = sink * sink:gt(1e-5)
  return (patched - own) * ((rest + sink) * g - others) / (patched + (rest + sink) * (-top):exp()):maximum(1e-37)
end

-- The repaired estimate of every query or key, [pos, head, 1]: the pattern as it would be, times the gradient at the pattern.
-- Keys: of the key-value heads, unless query_heads.
function atp.fixed(base, other, grads, plan, layer, query_heads)
  local g, pattern = grads:value("pattern", layer), base:value("pattern", layer)
  if plan.info.name == "q" then
    local patched = moved(base, other, "q", layer)
    return ((patched - pattern) * g):sum(2):transpose(0, 1):contiguous():unsqueeze(2)
  end
  local _, attention = moved(base, other, "k", layer)
  local d = scores.finite(attention) - scores.finite(base:value("attn_scores", layer))
  local effects = key_effects(pattern, g, d):sum(1):transpose(0, 1):contiguous() -- [src, head]
  local group = effects.shape[2] // plan.info.heads
  if group > 1 and not query_heads then effects = effects:reshape(effects.shape[1], plan.info.heads, group):sum(2) end
  return effects:unsqueeze(2)
end

local OPTIONS = { "site", "over", "layer", "pos", "head", "neuron", "dest", "src", "memory", metric = "logit_diff", direction = "noising",
                  qk_fix = true, query_heads = false }

-- Gradients of pair i without what passes through one layer's attention and MLP, a list by layer.
local function dropped_gradients(set, i, into, plan, o)
  local run, requests, sites = set[i][into], {}, atp.sites(plan)
  for _, layer in ipairs(plans.layers(plan)) do sites[#sites + 1] = { site = plan.info.name, layer = layer or nil } end
  for drop = 0, set.model.layers - 1 do
    requests[drop + 1] = { run = run, metric = set:metric(o.metric, i), sites = sites,
                           stop = { { site = "attn_out", layer = drop }, { site = "mlp_out", layer = drop } } }
  end
  return pb.grad(requests, { memory = o.memory })
end

-- For each pair and dropped layer, the grid of estimates: parts[drop + 1][i].
local function dropped(set, o, name)
  local into, from = scores.sides(o.direction, name)
  local plan, parts = atp.plan(set, o, name), {}
  local reached = set:measure(o.metric, from)
  local contributes = plan.info.name == "attn_out" or plan.info.name == "mlp_out"
  for i = 1, #set do
    local base, other = set[i][into], set[i][from]
    for d, grads in ipairs(dropped_gradients(set, i, into, plan, o)) do
      local function product(layer)
        if o.qk_fix and atp.applies(plan) then return atp.fixed(base, other, grads, plan, layer, o.query_heads) end
        local change = scores.difference(other, base, plan, layer) * scores.value(grads, plan, layer)
        return contributes and layer == d - 1 and change * 0 or change -- the dropped contribution itself
      end
      parts[d] = parts[d] or {}
      parts[d][i] = scores.grid(plan, set, i, product, {
        unit = "estimated " .. cells.unit(grads.metric), name = "without the gradient through layer " .. d - 1, span = reached:get(i - 1) - grads.measured,
        metric = type(o.metric) == "string" and o.metric or tostring(grads.metric), about = { direction = o.direction, method = "GradDrop", absolute = o.absolute } })
    end
  end
  return parts
end

-- attribution.graddrop(set, { site =, over =, metric =, direction =, qk_fix = }) -> list of grids, one for each dropped layer
function atp.graddrop(set, given)
  local o = pb.options(given, OPTIONS, "attribution.graddrop")
  local grids = dropped(cells.set(set, "attribution.graddrop"), o, "attribution.graddrop")
  for d, parts in ipairs(grids) do grids[d] = pb.mean(parts) end
  return grids
end

-- attribution.star(set, { site =, over =, metric =, direction =, qk_fix = }) -> grid: AtP*'s contribution, never negative
function atp.star(set, given)
  local name = "attribution.star"
  local o = pb.options(given, OPTIONS, name)
  set = cells.set(set, name)
  if set.model.layers < 2 then pb.fail "attribution.star needs a model of two layers or more: it averages over the others" end
  local sums = {}
  o.absolute = "yes"
  for _, parts in ipairs(dropped(set, o, name)) do
    for i, part in ipairs(parts) do sums[i] = sums[i] and sums[i] + part:abs() or part:abs() end
  end
  for i, sum in ipairs(sums) do sums[i] = (sum / (set.model.layers - 1)):titled "AtP*" end
  return pb.mean(sums)
end

return atp
