-- The cells of a table of scores: a site, the axes of the table, the coordinates on them (positions by name too), and how they are
-- found in the site's value for each pair.
local pb = require "patchbay"
local cells = require "patchbay.cells"

local plan = { FIELDS = { "site", "over", "layer", "pos", "head", "neuron", "dest", "src" } }

local TOKENS = { pos = true, dest = true, src = true }
local NEURONS = { mlp_pre = true, mlp_pre_linear = true, mlp_post = true }

local function has(list, item)
  for _, x in ipairs(list) do
    if x == item then return true end
  end
end

local function as_list(x) return type(x) == "table" and x or { x } end

-- What is patched at this site most often: heads, neurons or positions, in every layer.
local function usual_axes(info)
  local axes = info.layers and not info.layer and { "layer" } or {}
  axes[#axes + 1] = has(info.axes, "head") and "head" or NEURONS[info.name] and "neuron" or "pos"
  return axes
end

local function coordinates(set, info, axis, asked)
  if asked ~= nil and asked ~= "all" then return as_list(asked) end
  if axis == "layer" then return info.layers end
  local list, n = {}, axis == "head" and info.heads or axis == "neuron" and info.width or #set[1].clean
  for i = 1, n do list[i] = i - 1 end
  return list
end

local function label(c) return type(c) == "table" and (c.name or table.concat(c, ", ")) or tostring(c) end

-- Which layers every place along "layer" stands for; one place where it is no axis. false: the site is outside the blocks.
local function layer_groups(model, info, own, o, name)
  if not info.layers then return { { false } } end
  if info.layer then return { { info.layer } } end
  local groups = own.coords.layer
  if not groups and o.layer == nil then
    pb.fail("%s: site '%s' is in every layer: put \"layer\" into over, or give layer = a number, a list or \"all\"", name, o.site)
  end
  groups = groups or { o.layer == "all" and info.layers or o.layer }
  local own_groups = {}
  for g, group in ipairs(groups) do
    own_groups[g] = {}
    for k, layer in ipairs(as_list(group)) do
      if math.type(layer) ~= "integer" or layer >= model.layers or layer < -model.layers then
        pb.fail("%s: layer %s is not in a model of %d layers", name, tostring(layer), model.layers)
      end
      own_groups[g][k] = layer < 0 and layer + model.layers or layer
    end
  end
  return own_groups
end

-- plan.new(set, { site =, over =, layer =, pos =, head =, neuron =, dest =, src = }, name): the cells of a table. Coordinates as
-- set:sweep takes them; those of axes that are not in `over` are fixed (absent: all), and summed.
function plan.new(set, o, name)
  local info = set.model:site(o.site or pb.fail("%s: site is missing, as site = \"resid_pre\"", name))
  local over = type(o.over) == "string" and { o.over } or o.over or usual_axes(info)
  local own = { info = info, site = o.site, axes = over, coords = {}, labels = {}, fixed = {}, whole = {} }
  for _, axis in ipairs(over) do
    if not has(info.axes, axis) and not (axis == "layer" and info.layers and not info.layer) then
      pb.fail("%s: site '%s' has no %s axis; it has %s", name, o.site, tostring(axis), table.concat(info.axes, ", "))
    end
    local asked = o[axis]
    if TOKENS[axis] and asked == nil then asked = cells.positions(set, name) end
    if TOKENS[axis] and asked == "all" and not cells.same_length(set) then
      pb.fail("%s: the prompts have different lengths, so that their positions have no mean: give %s as names of positions, or leave it out of over", name, axis)
    end
    own.coords[axis], own.whole[axis] = coordinates(set, info, axis, asked), asked == nil or asked == "all"
    if TOKENS[axis] and asked == "all" and #set == 1 then own.labels[axis] = set[1].clean.labels end
    if not own.labels[axis] then
      own.labels[axis] = {}
      for i, c in ipairs(own.coords[axis]) do own.labels[axis][i] = label(c) end
    end
  end
  for _, axis in ipairs { "layer", "pos", "head", "neuron", "dest", "src" } do
    if not has(over, axis) and o[axis] ~= nil then
      if not (axis == "layer" and info.layers or has(info.axes, axis)) then pb.fail("%s: site '%s' has no %s axis", name, o.site, axis) end
      own.fixed[axis] = o[axis] ~= "all" and o[axis] or nil
    end
  end
  own.groups = layer_groups(set.model, info, own, o, name)
  return own
end

-- A coordinate as numbers of pair i: names of positions become the pair's own.
function plan.resolve(set, i, c)
  local list = {}
  for _, entry in ipairs(as_list(c)) do
    for _, n in ipairs(as_list(type(entry) == "string" and set:position(entry, i) or entry)) do list[#list + 1] = n end
  end
  return list
end

-- The patch that one cell stands for in pair i, without what to put there.
function plan.place(own, set, i, cell)
  local place = { site = own.site }
  for _, axis in ipairs { "layer", "pos", "head", "neuron", "dest", "src" } do
    local c = cell[axis]
    if c == nil then c = own.fixed[axis] end
    if c ~= nil then place[axis] = plan.resolve(set, i, c) end
  end
  if own.info.layers and not own.info.layer and place.layer == nil then place.layer = "all" end
  return place
end

-- Every layer of the plan (false: outside the blocks), each once.
function plan.layers(own)
  local list, seen = {}, {}
  for _, group in ipairs(own.groups) do
    for _, layer in ipairs(as_list(group)) do
      if not seen[layer] then list[#list + 1], seen[layer] = layer, true end
    end
  end
  return list
end

return plan
