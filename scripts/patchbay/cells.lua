-- The cells of a sweep as a list that one can look at and change: for patches that set:sweep has no words for. Techniques are
-- made of it: write the cells, say which patches each one means for a pair, measure all of them in one pass.
local pb = require "patchbay"

local cells = {}

local UNITS = { logit = "logit", logits = "weighted logits", logit_diff = "logit difference", prob = "probability", prob_diff = "probability difference",
                log_prob = "log probability", rank = "rank", nll = "negative log likelihood", kl = "KL divergence" }

function cells.unit(metric) return UNITS[metric.kind] or "metric" end

-- A set of pairs from what techniques take: a set, or one { clean =, corrupt = } of runs.
function cells.set(set, name)
  if getmetatable(set) == "set" then return set end
  if type(set) == "table" and getmetatable(set.clean) == "run" and getmetatable(set.corrupt) == "run" then
    return pb.pairs(set.clean.model, { set })
  end
  pb.fail("%s: the first argument must be a set of pairs (pb.pairs, tasks.ioi, data.facts(...):pairs()), or { clean = run, corrupt = run }", name)
end

-- Do all prompts have one length?
function cells.same_length(set)
  for i = 2, #set do
    if #set[i].clean ~= #set[1].clean then return false end
  end
  return true
end

local function place_of(position) return type(position) == "table" and position[1] or position end

-- The positions to sweep: all of them where the prompts have one length, else the names that every pair has, in their order.
function cells.positions(set, name)
  if cells.same_length(set) then return "all" end
  local shared = {}
  for key in pairs(set[1].positions) do
    local everywhere = true
    for i = 2, #set do everywhere = everywhere and set[i].positions[key] ~= nil end
    if everywhere and key ~= "end" then shared[#shared + 1] = key end
  end
  if #shared == 0 then
    pb.fail("%s: the prompts have different lengths and no position with a name that all pairs have: give pos = { \"end\" }, or pairs with positions", name)
  end
  local places = set[1].positions
  table.sort(shared, function(a, b)
    local x, y = place_of(places[a]), place_of(places[b])
    if x ~= y then return x < y end
    return a < b
  end)
  shared[#shared + 1] = "end"
  return shared
end

-- Coordinates of one axis: those asked for, or all there are.
local function coordinates(set, axis, asked, site)
  local n
  if asked == nil or asked == "all" then
    if axis == "layer" then return { table.unpack(site.layers) } end
    if axis == "head" then n = site.heads elseif axis == "neuron" then n = site.width else n = #set[1].clean end
    asked = {}
    for i = 1, n do asked[i] = i - 1 end
  end
  return type(asked) == "table" and asked or { asked }
end

-- cells.over(set, { site =, over = { "layer", "head" }, layer =, pos =, head =, neuron = }) -> list of { layer =, head = }, with
-- .axes, .coords, .labels and .shape, the last axis fastest
function cells.over(set, o)
  local site = set.model:site(o.site)
  local list = { axes = o.over, coords = {}, labels = {}, shape = {} }
  for i, axis in ipairs(o.over) do
    local coords, labels = coordinates(set, axis, o[axis], site), {}
    for j, c in ipairs(coords) do labels[j] = type(c) == "table" and (c.name or table.concat(c, ", ")) or tostring(c) end
    if axis == "pos" and #set == 1 and (o.pos == nil or o.pos == "all") then labels = set[1].clean.labels end
    list.coords[axis], list.labels[axis], list.shape[i] = coords, labels, #coords
  end
  local function fill(depth, cell)
    local axis = o.over[depth]
    if not axis then
      list[#list + 1] = cell
      return
    end
    for _, c in ipairs(list.coords[axis]) do
      local one = {}
      for key, value in pairs(cell) do one[key] = value end
      one[axis] = c
      fill(depth + 1, one)
    end
  end
  fill(1, {})
  return list
end

-- cells.named(list, axis) -> the entries of a list as cells of one axis, labelled by their names
function cells.named(list, axis)
  local out = { axes = { axis }, coords = { [axis] = {} }, labels = { [axis] = {} }, shape = { #list } }
  for i, entry in ipairs(list) do
    out[i], out.coords[axis][i], out.labels[axis][i] = entry, i - 1, entry.name or tostring(i - 1)
  end
  return out
end

-- cells.measure(set, list, function(pair, cell, i, draw) return patches end, o) -> grid: mean over pairs with its standard error.
-- o: metric; run = "clean" | "corrupt", what is patched; target, the same for grid.target; draws, variants of a cell whose mean is
-- the cell's value; memory, dry.
function cells.measure(set, list, make, o)
  local requests, metrics, draws = {}, {}, o.draws or 1
  for i = 1, #set do
    local pair = set[i]
    local metric = set:metric(o.metric, i)
    metrics[i] = metric
    for _, cell in ipairs(list) do
      for draw = 1, draws do
        requests[#requests + 1] = { run = pair[o.run], patches = make(pair, cell, i, draw), metric = metric }
      end
    end
    requests[#requests + 1] = { run = pair[o.run], metric = metric }
    if o.target then requests[#requests + 1] = { run = pair[o.target], metric = metric } end
  end
  local measured = pb.measure(requests, { memory = o.memory, dry = o.dry, allow_unread = true })
  if o.dry then return measured end
  local parts, at, shape = {}, 0, { table.unpack(list.shape) }
  shape[#shape + 1] = draws
  local about = { model = set.model.name, pairs = #set, site = o.site }
  for i = 1, #set do
    local n = #list * draws
    parts[i] = pb.grid { values = measured:narrow(0, at, n):clone():reshape(shape):mean(-1), axes = list.axes, coords = list.coords, labels = list.labels,
                         base = measured:get(at + n), target = o.target and measured:get(at + n + 1) or nil, unit = cells.unit(metrics[i]),
                         metric = type(o.metric) == "string" and o.metric or tostring(metrics[i]), about = about, name = o.name }
    at = at + n + (o.target and 2 or 1)
  end
  return pb.mean(parts)
end

cells.patches = require "patchbay.places".patches

return cells
