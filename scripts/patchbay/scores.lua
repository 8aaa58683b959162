-- Tables of scores: one number for each cell of a sweep, made of numbers that have the site's own axes. Attribution methods say
-- what these numbers are (a difference times a gradient, say); here they are summed into cells, by pair, and averaged.
local pb = require "patchbay"
local plans_of = require "patchbay.plan"

local scores = {}

local SLICE = 16 -- pairs whose gradients are in memory at a time

local function has(list, item)
  for _, x in ipairs(list) do
    if x == item then return true end
  end
end

local function as_list(x) return type(x) == "table" and x or { x } end

-- run:value or grads:value at a plan's site.
function scores.value(source, plan, layer)
  if layer then return source:value(plan.info.name, layer) end
  return source:value(plan.info.name)
end

-- The tensor at the coordinates of one axis; those of a group are summed.
local function gather(value, axis, coords, set, i)
  local numbers, parts = {}, {}
  for j, c in ipairs(coords) do
    local list = plans_of.resolve(set, i, c)
    numbers[j] = list[1]
    parts[j] = #list > 1 and value:index(axis, list):sum(axis, true) or nil
  end
  if next(parts) == nil then return value:index(axis, numbers) end
  for j = 1, #coords do parts[j] = parts[j] or value:index(axis, { numbers[j] }) end
  return pb.concat(parts, axis)
end

-- Numbers that can be multiplied: masked attention scores are -inf.
function scores.finite(value) return value:maximum(-1e30) end

-- Value in another run minus own value; 0 where both are masked.
function scores.difference(other, own, plan, layer)
  local a, b = scores.value(other, plan, layer), scores.value(own, plan, layer)
  return plan.info.name == "attn_scores" and scores.finite(a) - scores.finite(b) or a - b
end

-- Which side is changed, and where the new values come from.
function scores.sides(direction, name)
  pb.one_of(direction, { "denoising", "noising" }, name .. ": direction")
  if direction == "denoising" then return "corrupt", "clean" end
  return "clean", "corrupt"
end

-- product(layer) -> tensor with the site's axes. The numbers of the cells of pair i, and the order of their axes.
local function reduce(plan, set, i, product)
  local axes, by_layer = {}, {}
  local function of_layer(layer)
    local value = product(layer)
    for a = #plan.info.axes, 1, -1 do
      local axis = plan.info.axes[a]
      if not has(plan.axes, axis) then
        if plan.fixed[axis] ~= nil then value = value:index(a - 1, plans_of.resolve(set, i, plan.fixed[axis])) end
        value = value:sum(a - 1)
      elseif not plan.whole[axis] then
        value = gather(value, a - 1, plan.coords[axis], set, i)
      end
    end
    return value
  end
  for g, group in ipairs(plan.groups) do
    for _, layer in ipairs(as_list(group)) do by_layer[g] = by_layer[g] and by_layer[g] + of_layer(layer) or of_layer(layer) end
  end
  if has(plan.axes, "layer") then axes[1] = "layer" end
  for _, axis in ipairs(plan.info.axes) do
    if has(plan.axes, axis) then axes[#axes + 1] = axis end
  end
  return axes[1] == "layer" and pb.stack(by_layer) or by_layer[1], axes
end

-- The grid of pair i. facts: unit, name, metric, span (of the metric, where scores are changes of it), about.
function scores.grid(plan, set, i, product, facts)
  local values, axes = reduce(plan, set, i, product)
  local about = { model = set.model.name, pairs = #set, site = plan.site, metric = facts.metric, axes = table.concat(plan.axes, ", ") }
  for key, value in pairs(facts.about or {}) do about[key] = value end
  local grid = pb.grid { values = values, axes = axes, coords = plan.coords, labels = plan.labels, unit = facts.unit, name = facts.name,
                         metric = facts.metric, about = about, base = facts.span and 0, target = facts.span }
  if facts.span then grid = grid:change() end
  return grid:transpose(plan.axes)
end

-- The means of all plans' grids, from one reverse pass. o: metric; run, the side that is differentiated; memory. product(i, plan,
-- layer, grads) as above; facts(i, metric) as above. Every plan may have its own facts.
function scores.grids(set, plans, o, product, facts)
  local parts, sites = {}, {}
  for p, plan in ipairs(plans) do
    parts[p] = {}
    for _, layer in ipairs(plans_of.layers(plan)) do sites[#sites + 1] = { site = plan.info.name, layer = layer or nil } end
    for _, extra in ipairs(o.sites and o.sites(plan) or {}) do sites[#sites + 1] = extra end
  end
  for first = 1, #set, SLICE do
    local requests = {}
    for i = first, math.min(first + SLICE - 1, #set) do
      requests[#requests + 1] = { run = set[i][o.run], metric = set:metric(o.metric, i), sites = sites }
    end
    for k, grads in ipairs(pb.grad(requests, { memory = o.memory })) do
      local i = first + k - 1
      for p, plan in ipairs(plans) do
        parts[p][i] = scores.grid(plan, set, i, function(layer) return product(i, plan, layer, grads) end, facts(i, grads, plan))
      end
    end
  end
  local grids = {}
  for p = 1, #plans do grids[p] = pb.mean(parts[p]) end
  return grids
end

return scores
