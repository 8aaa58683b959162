-- Gradients: run:grad and pb.grad. What they give is indexed by sites, as a run is: grads["blocks.3.hook_resid_pre"].
local pb, core = ...

local grad = pb.grad -- the primitive: full names in, plain tables out
local Grads, meta = {}, { __name = "grads", __metatable = "grads" }
local state = setmetatable({}, { __mode = "k" }) -- grads -> { run, metric, weight, stop, measured, weights, found = site -> tensor }
local names = setmetatable({}, { __mode = "k" }) -- model -> short name -> layer (-1: outside the blocks) -> full name
local FIELDS = { "run", "metric", "measured", "weights", "sites", "zero", "stop" }
local PLACE = { "site", "layer", "pos", "head", "neuron", "dest", "src" }

local function names_of(model)
  local map = names[model]
  if not map then
    map = {}
    for _, full in ipairs(model:sites()) do
      local site = model:site(full)
      map[site.name] = map[site.name] or {}
      map[site.name][site.layer or -1] = full
    end
    names[model] = map
  end
  return map
end

-- The full names that a site's name means: one, or with a short name and no layer one for each layer.
local function full_names(model, name, layer)
  if type(name) ~= "string" then core.raise("a site is given by its name, got " .. core.describe(name)) end
  local info = model:site(name)
  if layer ~= nil and math.type(layer) ~= "integer" then core.raise("layer must be an integer, got " .. core.describe(layer)) end
  layer = layer and layer < 0 and layer + model.layers or layer
  if not info.layers then
    if layer then core.raise(("site '%s' is not in a layer"):format(name)) end
    return { names_of(model)[info.name][-1] }
  end
  if info.layer and layer and info.layer ~= layer then core.raise(("site '%s' is of layer %d, not %d"):format(name, info.layer, layer)) end
  layer = layer or info.layer
  local list = {}
  for _, l in ipairs(layer and { layer } or info.layers) do
    list[#list + 1] = names_of(model)[info.name][l] or core.raise(("site '%s' is not in layer %d: it is in layers %d to %d"):format(
                                                                name, l, info.layers[1], info.layers[#info.layers]))
  end
  return list
end

local function one_name(model, name, layer)
  local list = full_names(model, name, layer)
  if #list > 1 then core.raise(("site '%s' is in every layer: give the layer too, as grads:value(\"%s\", 3)"):format(name, name)) end
  return list[1]
end

-- What is computed unless sites are named: those with one row for each position. Others are larger: a copy of the stream for
-- every head, every expert's neurons, [head, dest, src], logits.
local function is_small(info)
  return info.axes[1] == "pos" and info.name ~= "logits" and not info.expert and info.name ~= "expert_indices" and not (info.heads and info.width_name == "d_model")
end

-- The full names of a list of sites, each a name (a short one: of all layers) or { site =, layer = }. what: for messages.
local function named(model, sites, what)
  local list, seen = {}, {}
  for _, entry in ipairs(type(sites) == "string" and { sites } or core.check_list(sites, what)) do
    local name, layer = entry, nil
    if type(entry) == "table" then
      core.fields(entry, { "site", "layer" }, 0, "an entry of " .. what)
      name, layer = entry.site, entry.layer
    end
    for _, full in ipairs(full_names(model, name, layer)) do
      if not seen[full] then list[#list + 1], seen[full] = full, true end
    end
  end
  return list
end

local function wanted(model, sites)
  if sites ~= nil then return named(model, sites, "sites") end
  local list = {}
  for _, full in ipairs(model:sites()) do
    if is_small(model:site(full)) then list[#list + 1] = full end
  end
  return list
end

-- ---- the object ----------------------------------------------------------------------------------------------------------

local function found(grads, full)
  local own = state[grads]
  if not own.found[full] then -- not among those that were asked for: another pass
    own.found[full] = grad({ { run = own.run, metric = own.metric, weight = own.weight, stop = own.stop, sites = { full } } })[1][full]
  end
  return own.found[full]
end

local function zero_of(grads)
  return setmetatable({}, { __metatable = false, __index = function(_, name)
    return found(grads, one_name(state[grads].run.model, name)):abs():max() == 0
  end, __newindex = function() core.raise "grads.zero can only be read" end })
end

local function check(grads, method)
  return state[grads] or core.raise(method .. " is called with a colon: grads:" .. method .. "(...)")
end

-- grads:value(site [, layer]) or grads:value { site =, layer =, pos = ... }: the chosen entries, every axis kept
function Grads:value(site, layer)
  local own = check(self, "value")
  if type(site) ~= "table" then return found(self, one_name(own.run.model, site, layer)):clone() end
  core.fields(site, PLACE, 0, "value")
  local full = one_name(own.run.model, site.site, site.layer)
  local value, axes = found(self, full), own.run.model:site(full).axes
  for _, axis in ipairs { "pos", "head", "neuron", "dest", "src" } do
    local chosen, place = site[axis], nil
    for i, name in ipairs(axes) do place = name == axis and i - 1 or place end
    if chosen ~= nil and chosen ~= "all" then
      if not place then core.raise(("site '%s' has no %s axis; it has %s"):format(full, axis, table.concat(axes, ", "))) end
      value = value:index(place, type(chosen) == "table" and chosen or { chosen })
    end
  end
  return value:clone()
end

function meta:__index(key)
  if Grads[key] then return Grads[key] end
  local own = state[self]
  if key == "zero" then return zero_of(self) end
  if key == "sites" then return core.sorted_keys(own.found) end
  for _, field in ipairs(FIELDS) do
    if key == field then return field == "stop" and own.stop and { table.unpack(own.stop) } or own[field] end
  end
  if type(key) ~= "string" and type(key) ~= "table" then core.raise("gradients are indexed by a site's name, not by " .. core.describe(key)) end
  return self:value(key)
end

function meta:__newindex() core.raise "gradients can only be read; grads:value(site) gives a tensor of your own" end

function meta:__tostring()
  local own = state[self]
  return ("gradients of %s = %.6g at %d sites of %s"):format(tostring(own.metric), own.measured, #self.sites, tostring(own.run))
end

-- ---- making ----------------------------------------------------------------------------------------------------------------

-- pb.grad(list of { run =, patches =, metric =, sites =, stop =, weight = } [, { weights =, memory = }]) -> list of grads, weights' gradients
function pb.grad(list, options)
  core.check_list(list, "the first argument of pb.grad")
  if #list == 0 then core.raise "pb.grad: the list is empty" end
  core.fields(options or {}, { "weights", "memory" }, 0, "pb.grad")
  local requests = {}
  for i, entry in ipairs(list) do
    core.fields(entry, { "run", "patches", "metric", "sites", "stop", "weight" }, 0, "entry " .. i .. " of pb.grad")
    local run = entry.run
    if getmetatable(run) ~= "run" then core.raise(("entry %d of pb.grad: run must be a run, got %s"):format(i, core.describe(run))) end
    if getmetatable(entry.metric) ~= "metric" then
      core.raise(("entry %d of pb.grad: expected a metric, as pb.metric.logit_diff(\" Paris\", \" Rome\") makes, got %s"):format(i, core.describe(entry.metric)))
    end
    if entry.patches then run = run:patched(entry.patches) end
    requests[i] = { run = run, metric = entry.metric, weight = entry.weight, sites = wanted(run.model, entry.sites),
                    stop = entry.stop and named(run.model, entry.stop, "stop") }
  end
  local results, weights = grad(requests, options)
  if not (options and options.weights) then weights = nil end
  local out = {}
  for i, found_here in ipairs(results) do
    local request = requests[i]
    local grads = setmetatable({}, meta)
    local own = { run = request.run, metric = request.metric, weight = request.weight, stop = request.stop, measured = found_here.value,
                  weights = weights, found = found_here }
    found_here.value = nil
    state[grads], out[i] = own, grads
  end
  return out, weights
end

-- run:grad(metric [, sites [, { weights =, memory =, weight =, stop = }]]) -> grads
function core.methods.run.grad(run, metric, sites, options)
  if getmetatable(run) ~= "run" then core.raise "grad is called with a colon: run:grad(metric)" end
  core.fields(options or {}, { "weights", "memory", "weight", "stop" }, 0, "grad")
  options = options or {}
  return pb.grad({ { run = run, metric = metric, sites = sites, weight = options.weight, stop = options.stop } }, { weights = options.weights, memory = options.memory })[1]
end

core.methods.grads = Grads
