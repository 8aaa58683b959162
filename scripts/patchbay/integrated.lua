-- Integrated gradients (Sundararajan, Taly, Yan 2017): go from a baseline to the value in a straight line, average the gradient on
-- the way, and multiply by the whole difference. The scores of all entries add up to what the metric gains from the baseline
-- to the value, as far as the sum over steps is the integral; how far, is stated.
local pb = require "patchbay"
local cells, plans, scores = require "patchbay.cells", require "patchbay.plan", require "patchbay.scores"

local integrated = {}

-- Gauss and Legendre's points and weights on 0 .. 1: eigenvalues of the Jacobi matrix (Golub and Welsch 1969).
local function gauss(n)
  local matrix = pb.zeros(n, n)
  for k = 1, n - 1 do
    local b = k / math.sqrt(4 * k * k - 1)
    matrix:set(k - 1, k, b)
    matrix:set(k, k - 1, b)
  end
  local values, vectors = matrix:eigh()
  local points = {}
  for k = 1, n do points[k] = { (values:get(k - 1) + 1) / 2, vectors:get(0, k - 1) ^ 2 } end
  return points
end

-- integrated.points(rule, n) -> list of { share of the way, weight }; the weights add up to 1.
function integrated.points(rule, n)
  if math.type(n) ~= "integer" or n < 1 then pb.fail("steps must be a positive integer, got %s", tostring(n)) end
  pb.one_of(rule, { "left", "midpoint", "right", "trapezoid", "gauss" }, "rule")
  if rule == "gauss" then return gauss(n) end
  local points = {}
  if rule == "trapezoid" then
    if n < 2 then pb.fail "the trapezoid rule needs 2 steps or more: both ends are among them" end
    for k = 0, n - 1 do points[k + 1] = { k / (n - 1), (k == 0 or k == n - 1) and 0.5 / (n - 1) or 1 / (n - 1) } end
    return points
  end
  local offset = rule == "left" and 0 or rule == "right" and 1 or 0.5
  for k = 0, n - 1 do points[k + 1] = { (k + offset) / n, 1 / n } end
  return points
end

-- The mean of a site over all positions of all prompts of one side, [1, ...].
local function mean_of(set, plan, layer, side)
  local sum, count = nil, 0
  for i = 1, #set do
    local value = scores.value(set[i][side], plan, layer)
    count, sum = count + value.shape[1], sum and sum + value:sum(0, true) or value:sum(0, true)
  end
  return sum / count
end

-- Where the path begins for pair i.
local function baseline_of(set, i, plan, layer, o)
  local value = scores.value(set[i][o.of], plan, layer)
  if o.baseline == "zero" then return value, value * 0 end
  if o.baseline == "mean" then return value, value * 0 + o.means[layer] end
  return value, scores.value(set[i][o.of == "clean" and "corrupt" or "clean"], plan, layer)
end

-- The scores of every entry of one site and layer, and how far their sum is from what it should be.
local function along_path(set, i, plan, layer, o)
  local run, metric, place = set[i][o.of], set:metric(o.metric, i), { site = plan.info.name, layer = layer or nil }
  local value, start = baseline_of(set, i, plan, layer, o)
  local difference, requests = value - start, {}
  local function at(share) return { { site = place.site, layer = place.layer, value = start + difference * share } } end
  for k, point in ipairs(o.points) do
    requests[k] = { run = run, patches = at(point[1]), metric = metric, sites = { place }, weight = point[2] }
  end
  local mean
  for _, grads in ipairs(pb.grad(requests, { memory = o.memory })) do
    local g = scores.value(grads, plan, layer)
    mean = mean and mean + g or g
  end
  local product = difference * mean
  local ends = run:measure({ at(0), {} }, metric, { allow_unread = true })
  local gained, sum = ends:get(1) - ends:get(0), product:sum()
  return product, { pair = i, site = place.site, layer = place.layer, sum = sum, difference = gained, error = sum - gained }
end

-- attribution.integrated(set, { site = "embed", over =, steps = 20, rule = "midpoint", baseline = "other", of = "clean", metric = })
-- -> grid, list of { pair, layer, sum, difference, error }
function integrated.gradients(set, given)
  local name = "attribution.integrated"
  local o = pb.options(given, { "over", "layer", "pos", "head", "neuron", "memory", site = "embed", steps = 20, rule = "midpoint", baseline = "other",
                                of = "clean", metric = "logit_diff" }, name)
  set = cells.set(set, name)
  pb.one_of(o.of, { "clean", "corrupt" }, name .. ": of")
  pb.one_of(o.baseline, { "other", "zero", "mean" }, name .. ": baseline")
  local plan, parts, completeness = plans.new(set, o, name), {}, {}
  if plan.info.axes[1] ~= "pos" then pb.fail("%s: '%s' has no positions of its own; give a site of the stream, heads or neurons", name, o.site) end
  o.points, o.means = integrated.points(o.rule, o.steps), {}
  for _, layer in ipairs(o.baseline == "mean" and plans.layers(plan) or {}) do o.means[layer] = mean_of(set, plan, layer, o.of) end
  local worst, gained = 0, 0
  for i = 1, #set do
    local metric = set:metric(o.metric, i)
    local function product(layer)
      local scored, check = along_path(set, i, plan, layer, o)
      completeness[#completeness + 1] = check
      worst, gained = math.max(worst, math.abs(check.error)), math.max(gained, math.abs(check.difference))
      return scored
    end
    parts[i] = scores.grid(plan, set, i, product, { unit = cells.unit(metric), name = "integrated gradients",
      metric = type(o.metric) == "string" and o.metric or tostring(metric),
      about = { method = ("integrated gradients, %d steps, %s, baseline %s, of the %s run"):format(o.steps, o.rule, o.baseline, o.of) } })
  end
  local grid = pb.mean(parts)
  grid.about.completeness = ("sums differ from the metric's change by at most %.3g (changes up to %.4g)"):format(worst, gained)
  return grid, completeness
end

return integrated
