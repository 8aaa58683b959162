-- run:sweep: one patch at every point of a grid of coordinates, measured together. All it does is to write the list of
-- variants that run:measure would take.
local pb, core = ...

local AXES = { "site", "layer", "pos", "head", "neuron", "dest", "src" }
local ACTIONS = { "from", "value", "zero", "mean", "add", "scale", "noise", "fn" }
local FROM = { "from_site", "from_layer", "from_pos", "from_head", "from_dest", "from_src" }
local OWN = { "over", "metric", "with", "window", "memory", "dry" }

local FIELDS = {}
for _, list in ipairs { AXES, ACTIONS, FROM, OWN } do
  for _, name in ipairs(list) do FIELDS[#FIELDS + 1] = name end
end

local function fail(...) core.raise("sweep: " .. (...):format(select(2, ...))) end

local function index_of(list, item)
  for i, x in ipairs(list) do
    if x == item then return i end
  end
end

-- ---- axes ----------------------------------------------------------------------------------------------------------------

local function read_over(spec, sites)
  local over = type(spec.over) == "string" and { spec.over } or spec.over
  if type(over) ~= "table" or #over == 0 then
    fail("over must name the axes of the grid, as over = { \"layer\", \"pos\" }, got %s", core.describe(spec.over))
  end
  local axes = {}
  for i, axis in ipairs(over) do
    if not index_of(AXES, axis) then
      local near = type(axis) == "string" and core.suggest(axis, AXES)
      fail("%s is no axis%s; axes are site, layer, pos, head, neuron, dest, src", core.describe(axis),
           near and (" (did you mean '" .. near .. "'?)") or "")
    end
    if index_of(axes, axis) then fail("axis '%s' is named twice", axis) end
    axes[i] = axis
  end
  if #sites > 1 and not index_of(axes, "site") then table.insert(axes, 1, "site") end
  return axes
end

local function read_sites(model, site)
  local names = type(site) == "table" and site or { site }
  if #names == 0 or type(names[1]) ~= "string" then
    fail("site must be a site's name (\"resid_pre\") or a list of them, got %s", core.describe(site))
  end
  local infos = {}
  for i, name in ipairs(names) do infos[i] = model:site(name) end
  return names, infos
end

-- How many coordinates an axis has at a site, and whether it has the axis at all.
local function extent_of(info, axis, tokens)
  if axis == "head" then return info.heads end
  if axis == "neuron" then return info.width end
  if axis == "layer" then return info.layers and not info.layer and #info.layers or nil end
  return index_of(info.axes, axis) and tokens or nil
end

local function axis_extent(axis, names, infos, tokens)
  local extent
  for i, info in ipairs(infos) do
    local n = extent_of(info, axis, tokens)
    if not n and axis == "layer" and info.layer then fail("site '%s' names its layer already: leave 'layer' out of over", names[i]) end
    if not n then
      local has = table.concat(info.axes, ", ")
      fail("site '%s' has no %s axis; it has %s", names[i], axis, info.layers and "layer, " .. has or has)
    end
    if extent and n ~= extent and axis ~= "layer" then
      fail("sites '%s' and '%s' differ along %s (%d and %d): sweep them one by one", names[1], names[i], axis, extent, n)
    end
    extent = math.min(extent or n, n)
  end
  return extent
end

local function check_coordinate(axis, c, extent)
  if math.type(c) ~= "integer" then fail("%s must be an integer, got %s", axis, core.describe(c)) end
  if c >= extent or c < -extent then
    fail("%s %d is out of range: there are %d (0 to %d; negative counts from the end)", axis, c, extent, extent - 1)
  end
  return c < 0 and c + extent or c
end

-- The coordinates of one axis: those asked for (each a number, or a list of numbers that are patched together), else all.
local function axis_coordinates(model, axis, asked, extent, infos)
  local coords = {}
  if asked == nil or asked == "all" then
    if axis == "layer" then return { table.unpack(infos[1].layers) } end
    for i = 1, extent do coords[i] = i - 1 end
    return coords
  end
  if axis == "layer" then extent = model.layers end
  local list = type(asked) == "table" and asked or { asked }
  if #list == 0 then fail("the list of %s is empty", axis) end
  for i, c in ipairs(list) do
    if type(c) == "table" then
      local group = { name = c.name }
      for j, member in ipairs(c) do group[j] = check_coordinate(axis, member, extent) end
      if #group == 0 then fail("entry %d of %s is an empty group", i, axis) end
      coords[i] = group
    else
      coords[i] = check_coordinate(axis, c, extent)
    end
  end
  return coords
end

-- ---- labels -----------------------------------------------------------------------------------------------------------------

-- Token labels of the run that values come from; where the patched run has another token, both: "␣Eiffel / ␣Roman".
local function token_labels(run, from)
  local own = run.labels
  if not from or #from ~= #run then return own end
  local theirs, labels = from.labels, {}
  for i, label in ipairs(own) do labels[i] = theirs[i] == label and label or theirs[i] .. " / " .. label end
  return labels
end

local function group_label(group, tokens)
  if group.name then return group.name end
  local parts = {}
  for i, c in ipairs(group) do parts[i] = tokens and tokens[c + 1] or tostring(c) end
  return table.concat(parts, tokens and " " or ", ")
end

local function axis_labels(axis, coords, tokens)
  local labels = {}
  tokens = (axis == "pos" or axis == "dest" or axis == "src") and tokens or nil
  for i, c in ipairs(coords) do
    labels[i] = type(c) == "table" and group_label(c, tokens) or tokens and tokens[c + 1] or tostring(c)
  end
  return labels
end

-- ---- variants ---------------------------------------------------------------------------------------------------------------

-- Layers of a window of w around layer l, as ROME has it: l - w div 2 .. l + ceil(w / 2) - 1, inside the model.
local function window_layers(model, layer, w)
  local layers = {}
  for l = math.max(0, layer - w // 2), math.min(model.layers, layer + (w + 1) // 2) - 1 do layers[#layers + 1] = l end
  return layers
end

local function plain_list(c)
  return type(c) == "table" and { table.unpack(c) } or c
end

-- The variant of cell i (0-based; the last axis is fastest): a sweep of a million cells is never a list of a million tables.
local function variant_maker(model, spec, axes, coords)
  local patch = {}
  for _, list in ipairs { AXES, ACTIONS, FROM } do
    for _, name in ipairs(list) do patch[name] = spec[name] end
  end
  return function(i)
    local one = {}
    for key, value in pairs(patch) do one[key] = value end
    for a = #axes, 1, -1 do
      local list = coords[axes[a]]
      one[axes[a]], i = plain_list(list[i % #list + 1]), i // #list
    end
    if spec.window then one.layer = window_layers(model, one.layer, spec.window) end
    local variant = { one }
    for _, held in ipairs(spec.with or {}) do variant[#variant + 1] = held end
    return variant
  end
end

local function check_layer(spec, axes, names, infos)
  for i, info in ipairs(infos) do
    if info.layers and not info.layer and spec.layer == nil and not index_of(axes, "layer") then
      fail("site '%s' is in every layer: sweep over \"layer\", or give layer = a number, a list or \"all\"", names[i])
    end
  end
  if spec.window ~= nil then
    if math.type(spec.window) ~= "integer" or spec.window < 1 then fail("window must be a positive number of layers, got %s", core.describe(spec.window)) end
    if not index_of(axes, "layer") then fail("window = %d needs \"layer\" among the axes: it is the layers patched around each", spec.window) end
  end
end

-- The least and the greatest of an axis's coordinates: those of the grid, or fixed ones; all where none are said.
local function bounds_of(asked, tokens)
  local low, high = math.huge, -math.huge
  local function take(c)
    if type(c) == "table" then
      for _, member in ipairs(c) do take(member) end
    elseif math.type(c) == "integer" then
      c = c < 0 and c + tokens or c
      low, high = math.min(low, c), math.max(high, c)
    end
  end
  take(asked)
  if low > high then return 0, tokens - 1 end
  return low, high
end

-- Masked entries (src after dest) are part of a grid's table, with the run's own value; a sweep of nothing else is a mistake.
local function check_masked(spec, coords, names, infos, tokens)
  for i, info in ipairs(infos) do
    if index_of(info.axes, "dest") then
      local _, dest = bounds_of(coords.dest or spec.dest, tokens)
      local src = bounds_of(coords.src or spec.src, tokens)
      if src > dest then
        fail("nothing would change: every entry of '%s' that it patches is masked, since src (%d or later) comes after dest (%d or " ..
             "earlier), which attends to itself and to what is before it; were dest and src exchanged?", names[i], src, dest)
      end
    end
  end
end

local function check_from(run, spec)
  local from = spec.from
  if from == nil then return end
  if getmetatable(from) ~= "run" then fail("from must be a run, got %s", core.describe(from)) end
  if #from ~= #run and spec.from_pos == nil and spec.from_dest == nil then
    fail("the values come from a run of %d tokens, this one has %d, so a position is not the same place in both:\n%s\n" ..
         "Use prompts of one length, or measure patches with pos and from_pos.", #from, #run, run:side_by_side(from, "this run", "from"))
  end
end

local function check_action(spec)
  local found
  for _, name in ipairs(ACTIONS) do
    if spec[name] ~= nil then
      if found then fail("'%s' and '%s' exclude each other", found, name) end
      found = name
    end
  end
  if not found then fail("say what to patch in: from = run, or one of value, zero, mean, add, scale, noise, fn") end
end

-- The grid of one sweep of one run, without its values: count, variant(i), axes, coords, labels, shape, sites.
function core.expand(run, spec)
  local model = run.model
  core.fields(spec, FIELDS, 0, "sweep")
  check_action(spec)
  check_from(run, spec)
  local names, infos = read_sites(model, spec.site)
  local axes = read_over(spec, names)
  check_layer(spec, axes, names, infos)
  local coords, labels, shape, count = {}, {}, {}, 1
  local is_run = getmetatable(spec.from) == "run"
  local tokens = token_labels(run, is_run and spec.from or nil)
  for i, axis in ipairs(axes) do
    coords[axis] = axis == "site" and names
                   or axis_coordinates(model, axis, spec[axis], axis_extent(axis, names, infos, #run), infos)
    labels[axis] = axis_labels(axis, coords[axis], tokens)
    shape[i] = #coords[axis]
    count = count * shape[i]
  end
  check_masked(spec, coords, names, infos, #run)
  return { count = count, variant = variant_maker(model, spec, axes, coords), axes = axes, coords = coords, labels = labels, shape = shape, sites = names }
end

-- ---- measuring --------------------------------------------------------------------------------------------------------------

local SLICE = 1 << 16 -- requests that are handed to the engine at a time: memory stays bounded, and the weights are read once a slice

local function merge_plans(a, b)
  if not a then return b end
  for _, key in ipairs { "variants", "chunks", "rows", "full_rows", "flops", "full_flops" } do a[key] = a[key] + b[key] end
  a.bytes = math.max(a.bytes, b.bytes)
  return a
end

-- Measure sweeps together. jobs: list of { run =, spec =, grid = of core.expand, metric = }. Gives one tensor of all cells, and for
-- every job where its cells are in it; behind them its base, and with from = run its target. options.dry: the plan alone.
function core.measure_sweeps(jobs, options)
  local requests, parts, places, plan, total = {}, {}, {}, nil, 0
  local function flush()
    if #requests == 0 then return end
    local measured = pb.measure(requests, { memory = options.memory, dry = options.dry, allow_unread = true, first = total - #requests + 1 })
    if options.dry then plan = merge_plans(plan, measured) else parts[#parts + 1] = measured end
    requests = {}
  end
  local function add(run, patches, metric)
    requests[#requests + 1] = { run = run, patches = patches, metric = metric }
    total = total + 1
    if #requests == SLICE then flush() end
  end
  for k, job in ipairs(jobs) do
    local from = job.spec.from
    local place = { first = total, count = job.grid.count, target = getmetatable(from) == "run" and from.model == job.run.model }
    for i = 0, job.grid.count - 1 do add(job.run, job.grid.variant(i), job.metric) end
    add(job.run, job.spec.with, job.metric)
    if place.target then add(from, nil, job.metric) end
    places[k] = place
  end
  flush()
  if options.dry then return plan end
  return #parts == 1 and parts[1] or pb.concat(parts, 0), places
end

-- The grid from the tensor and the place that measure_sweeps gave.
function core.collect(all, place, grid, unit, metric, about)
  local n = place.count
  return core.grid.new {
    values = all:narrow(0, place.first, n):clone():reshape(grid.shape), axes = grid.axes, coords = grid.coords, labels = grid.labels,
    base = all:get(place.first + n), target = place.target and all:get(place.first + n + 1) or nil,
    unit = unit, metric = metric, about = about,
  }
end

local UNITS = { logit = "logit", logits = "weighted logits", logit_diff = "logit difference", prob = "probability", log_prob = "log probability", fn = "metric",
                prob_diff = "probability difference", rank = "rank", nll = "negative log likelihood", kl = "KL divergence" }

function core.unit_of(metric) return UNITS[metric.kind] or metric.kind end

function core.about_sweep(run, spec, grid, metric)
  local about = { model = run.model.name, prompt = run.text, site = table.concat(grid.sites, ", "), metric = tostring(metric),
                  axes = table.concat(grid.axes, ", ") }
  if getmetatable(spec.from) == "run" then about.from = spec.from.text end
  if spec.window then about.window = spec.window end
  return about
end

function core.methods.run.sweep(run, spec)
  if getmetatable(run) ~= "run" then core.raise("sweep is called with a colon: run:sweep { ... }") end
  local grid = core.expand(run, spec)
  if spec.metric == nil then fail("metric is missing: what to measure, as pb.metric.logit_diff(\" Paris\", \" Rome\")") end
  local measured, places = core.measure_sweeps({ { run = run, spec = spec, grid = grid, metric = spec.metric } }, spec)
  if spec.dry then return measured end
  return core.collect(measured, places[1], grid, core.unit_of(spec.metric), tostring(spec.metric), core.about_sweep(run, spec, grid, spec.metric))
end
