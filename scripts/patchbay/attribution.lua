-- Attribution: what one gradient says about every cell of a table.
--   patching          (x_other - x) · d metric / d x, the first-order estimate of what patching x would do (Nanda 2023; AtP)
--   gradient_x_input  x · d metric / d x
--   integrated        integrated gradients (patchbay.integrated)
--   graddrop, star    AtP* (patchbay.atp)
--   audit             how far an estimate may be trusted: exact patches of a sample of its cells (patchbay.audit)
-- Two forward passes and one backward pass give every cell of every site. Estimates are changes of the metric: they compare with
-- set:sweep { ... }:change() on the same axes, and :recovered() gives shares.
local pb = require "patchbay"
local cells, plans, scores = require "patchbay.cells", require "patchbay.plan", require "patchbay.scores"
local atp, integrated, audit = require "patchbay.atp", require "patchbay.integrated", require "patchbay.audit"

local attribution = { integrated = integrated.gradients, graddrop = atp.graddrop, star = atp.star, audit = audit.grid }

local OPTIONS = { "layer", "pos", "head", "neuron", "dest", "src", "memory" }

local function options(given, more, name)
  local known = { metric = "logit_diff" }
  for i, key in ipairs(OPTIONS) do known[i] = key end
  for key, value in pairs(more) do
    if math.type(key) == "integer" then known[#known + 1] = value else known[key] = value end
  end
  return pb.options(given, known, name)
end

-- Estimates at several sites at once. list: of plans.new.
local function patching(set, list, o, name)
  local into, from = scores.sides(o.direction, name)
  local reached = set:measure(o.metric, from)
  local function product(i, plan, layer, grads)
    local base, other = set[i][into], set[i][from]
    if o.qk_fix and atp.applies(plan) then return atp.fixed(base, other, grads, plan, layer, o.query_heads) end
    return scores.difference(other, base, plan, layer) * scores.value(grads, plan, layer)
  end
  local function facts(i, grads)
    local metric = grads.metric
    return { unit = "estimated " .. cells.unit(metric), name = o.qk_fix and "attribution patching, QK fix" or "attribution patching",
             metric = type(o.metric) == "string" and o.metric or tostring(metric), span = reached:get(i - 1) - grads.measured,
             about = { direction = o.direction, method = "first-order estimate: (other - own) * gradient on the " .. into .. " run" } }
  end
  return scores.grids(set, list, { metric = o.metric, run = into, memory = o.memory, sites = o.qk_fix and atp.sites }, product, facts)
end

-- attribution.patching(set, { site =, over =, metric =, direction =, qk_fix =, ... }) -> grid of estimated changes
function attribution.patching(set, given)
  local name = "attribution.patching"
  local o = options(given, { "site", "over", direction = "denoising", qk_fix = false, query_heads = false }, name)
  set = cells.set(set, name)
  return patching(set, { atp.plan(set, o, name) }, o, name)[1]
end

-- attribution.every(set, { { site =, over = }, "z", ... } [, options]) -> list of grids, all from one reverse pass
function attribution.every(set, list, given)
  local name = "attribution.every"
  local o = options(given, { direction = "denoising", qk_fix = false, query_heads = false }, name)
  set = cells.set(set, name)
  local own = {}
  for i, entry in ipairs(list) do
    own[i] = plans.new(set, type(entry) == "string" and { site = entry } or pb.options(entry, plans.FIELDS, name), name)
  end
  if #own == 0 then pb.fail "attribution.every needs a list of sites, as { \"resid_pre\", { site = \"z\", over = { \"layer\", \"head\" } } }" end
  return patching(set, own, o, name)
end

-- attribution.gradient_x_input(set, { site =, over =, metric =, of = "clean" }) -> grid
function attribution.gradient_x_input(set, given)
  local name = "attribution.gradient_x_input"
  local o = options(given, { "site", "over", of = "clean" }, name)
  set = cells.set(set, name)
  pb.one_of(o.of, { "clean", "corrupt" }, name .. ": of")
  local function product(i, plan, layer, grads)
    return scores.finite(scores.value(set[i][o.of], plan, layer)) * scores.value(grads, plan, layer)
  end
  return scores.grids(set, { plans.new(set, o, name) }, { metric = o.metric, run = o.of, memory = o.memory }, product, function(_, grads)
    return { unit = cells.unit(grads.metric), name = "gradient × input", metric = type(o.metric) == "string" and o.metric or tostring(grads.metric),
             about = { method = "value * gradient on the " .. o.of .. " run" } }
  end)[1]
end

return attribution
