-- Ablation: take a component's output away and see what the clean prompt loses. What stands in its place: zero; the mean over a data set
-- (position by position, or over all positions); or its value in another prompt ("resample"). Values are raw; grid:change() gives drops.
local pb = require "patchbay"
local cells = require "patchbay.cells"
local means, places, records = require "patchbay.means", require "patchbay.places", require "patchbay.records"

local ablate = { means = means.of }

local OPTIONS = { "over", "layer", "pos", "head", "neuron", "data", "seed", "memory", "dry", "batch",
                  site = "z", metric = "logit_diff", positions = "auto", draws = 1 }

local fillers = {}

function fillers.zero() return function() return { zero = true } end end

function fillers.mean(set, o)
  local by_site, kept, data, positions = {}, setmetatable({}, { __mode = "k" }), o.data or set, o.positions
  if positions == "auto" then positions = cells.same_length(set) and "each" or "all" end
  return function(pair, place)
    by_site[place.site] = by_site[place.site] or means.of(set.model, data, place.site, { positions = positions, batch = o.batch })
    local mean, length = by_site[place.site][(place.layer or 0) + 1], #pair.clean
    if positions == "each" and mean.shape[1] ~= length then
      pb.fail("ablate.mean: the means are of prompts of %d tokens, this one has %d: positions = \"all\"", mean.shape[1], length)
    end
    kept[place] = kept[place] or {}
    kept[place][length] = kept[place][length] or means.at(mean, place, length)
    return { value = kept[place][length] }
  end
end

-- Donors: prompts of the same length, drawn for each pair and draw from the data (default: the other prompts of the set).
function fillers.resample(set, o)
  local donors, runs, seed = {}, {}, o.seed or pb.seed
  for i, prompt in ipairs(means.prompts(o.data or set)) do runs[i] = getmetatable(prompt) == "run" and prompt or set.model:run(prompt) end
  for i = 1, #set do
    local own, order = {}, records.shuffled(#runs, seed, i)
    for _, k in ipairs(order) do
      if #runs[k] == #set[i].clean and runs[k] ~= set[i].clean then own[#own + 1] = runs[k] end
    end
    if #own < o.draws then
      pb.fail("ablate.resample: pair %d needs %d other prompts of %d tokens, and the data have %d", i, o.draws, #set[i].clean, #own)
    end
    donors[i] = own
  end
  return function(_, _, i, draw) return { from = donors[i][draw] } end
end

local KINDS = { "zero", "mean", "resample" }

local function measure(set, kind, list, places_of, o, name)
  local filler = fillers[pb.one_of(kind, KINDS, name .. ": kind")](set, o)
  return cells.measure(set, list, function(pair, cell, i, draw)
    local patches = {}
    for _, place in ipairs(places_of(cell)) do
      local at = cells.patches(set, i, { place }, {})[1]
      for key, value in pairs(filler(pair, place.pos == at.pos and place or at, i, draw)) do at[key] = value end
      patches[#patches + 1] = at
    end
    return patches
  end, { metric = o.metric, run = "clean", draws = kind == "resample" and o.draws or 1, memory = o.memory, dry = o.dry, site = o.site, name = name })
end

-- ablate.zero(set, { site = "z", over =, metric =, ... }), ablate.mean, ablate.resample -> grid: each cell's component taken away
for _, kind in ipairs(KINDS) do
  ablate[kind] = function(set, given)
    local o = pb.options(given, OPTIONS, "ablate." .. kind)
    set = cells.set(set, "ablate." .. kind)
    local info = set.model:site(o.site)
    o.over = type(o.over) == "string" and { o.over } or o.over or (info.heads and { "layer", "head" } or { "layer" })
    for _, axis in ipairs(o.over) do
      pb.one_of(axis, { "layer", "pos", "head", "neuron" }, "ablate." .. kind .. ": an axis of over")
      if axis == "pos" and (o.pos == nil or o.pos == "all") then o.pos = cells.positions(set, "ablate." .. kind) end
    end
    local list = cells.over(set, o)
    for _, cell in ipairs(list) do
      for _, key in ipairs { "site", "layer", "pos", "head", "neuron" } do
        if cell[key] == nil then cell[key] = o[key] end
      end
    end
    return measure(set, kind, list, function(cell) return { cell } end, o, "ablate." .. kind)
  end
end

-- ablate.groups(set, { { name =, { site =, layer =, head = }, ... }, ... }, { kind = "mean", ... }) -> grid [group]: all of a group at once
function ablate.groups(set, groups, given)
  local known = { kind = "mean" }
  for key, value in pairs(OPTIONS) do known[key] = value end
  local o = pb.options(given, known, "ablate.groups")
  return measure(cells.set(set, "ablate.groups"), o.kind, cells.named(places.groups(groups, "ablate.groups"), "group"), function(group) return group end, o, "ablate.groups")
end

local rows_meta = {}
function rows_meta:__tostring()
  local lines = { ("%-10s %12s %12s %10s"):format("without", "metric", "change", "± se"), ("%-10s %12.4f"):format("(nothing)", self.base) }
  for i, row in ipairs(self) do
    lines[i + 2] = ("%-10s %12.4f %+12.4f %10s"):format(row.name, row.value, row.change, row.se and ("%.4f"):format(row.se) or "")
  end
  return table.concat(lines, "\n")
end

-- ablate.leave_one_out(set, { kind =, components =, ... }) -> rows { name =, site =, layer =, head =, value =, change =, se = }, the largest
-- change first; prints as a table. components: places with names (default: every head and MLP).
function ablate.leave_one_out(set, given)
  local o = {}
  for key, value in pairs(given or {}) do o[key] = value end
  local list = o.components or require "patchbay.patching".components(set.model)
  o.components = nil
  local groups = {}
  for i, place in ipairs(list) do groups[i] = { name = place.name, place } end
  local grid = ablate.groups(set, groups, o)
  local change, rows = grid:change(), setmetatable({ base = grid.base, grid = grid }, rows_meta)
  for i, place in ipairs(list) do
    rows[i] = { name = place.name, site = place.site, layer = place.layer, head = place.head, pos = place.pos, value = grid.values:get(i - 1),
                change = change.values:get(i - 1), se = change.se and change.se:get(i - 1) }
  end
  table.sort(rows, function(a, b)
    if math.abs(a.change) ~= math.abs(b.change) then return math.abs(a.change) > math.abs(b.change) end
    return a.name < b.name
  end)
  return rows
end

-- ablate.curve(set, { order =, kind =, ... }) -> grid [ablated]: nothing, then one component more at each step, in the order given (places
-- with names, as leave_one_out's rows; that is the default).
function ablate.curve(set, given)
  local o = {}
  for key, value in pairs(given or {}) do o[key] = value end
  local order, groups = o.order, { { name = "nothing" } }
  o.order = nil
  order = order or ablate.leave_one_out(set, o)
  for n = 1, #order do
    groups[n + 1] = { name = "+ " .. order[n].name, table.unpack(order, 1, n) }
  end
  o.components = nil
  return ablate.groups(set, groups, o):titled "ablated together"
end

return ablate
