-- Sets of pairs: clean and corrupted prompts of one length with their answers. A sweep of a set is one sweep per pair, all
-- measured in one pass, and gives their mean with its standard error.
local pb, core = ...

local Set, meta = {}, { __name = "set", __metatable = "set" }
local made = setmetatable({}, { __mode = "k" })

local PAIR_FIELDS = { "clean", "corrupt", "answer", "wrong", "positions", "name", "info" }
local METRICS = { "logit_diff", "logit", "prob", "prob_diff", "log_prob", "rank", "nll", "kl" }

function meta:__index(key)
  if Set[key] ~= nil then return Set[key] end
  if math.type(key) == "integer" then core.raise(("the set has %d pairs (a list counts from 1): there is no pair %d"):format(#self, key)) end
  local names = { "model" }
  for name in pairs(Set) do names[#names + 1] = name end
  local near = type(key) == "string" and core.suggest(key, names)
  core.raise(("a set has no field or method %s%s"):format(core.describe(key), near and "; did you mean '" .. near .. "'?" or ""))
end

function meta:__tostring()
  return ("set of %d pairs on %s"):format(#self, self.model.name)
end

local function new(model, list)
  local set = { model = model }
  for i, pair in ipairs(list) do set[i] = pair end
  made[set] = true
  return setmetatable(set, meta)
end

local function check(set, method)
  if not made[set] then core.raise(method .. " is called with a colon: set:" .. method .. "(...)") end
  return set
end

-- ---- making ----------------------------------------------------------------------------------------------------------------

-- The tokens of an answer as ids, or an error that says which pair's.
local function check_tokens(model, pair, field, i)
  local given = pair[field]
  if given == nil then return nil end
  local ids = {}
  for j, token in ipairs(type(given) == "table" and given or { given }) do
    local ok, id = pcall(model.token, model, token)
    if not ok then core.raise(("pair %d, %s: %s"):format(i, field, tostring(id):gsub("^[^\n]-:%d+: ", ""))) end
    ids[j] = id
  end
  if #ids == 0 then core.raise(("pair %d: %s is an empty list"):format(i, field)) end
  return ids
end

local function check_positions(pair, i)
  if pair.positions == nil then return {} end
  if type(pair.positions) ~= "table" then core.raise(("pair %d: positions must be a table of names, got %s"):format(i, core.describe(pair.positions))) end
  for name, value in pairs(pair.positions) do
    if type(name) ~= "string" or (math.type(value) ~= "integer" and type(value) ~= "table") then
      core.raise(("pair %d: positions are named numbers or lists of numbers, { subject = { 1, 2 } }"):format(i))
    end
  end
  return pair.positions
end

-- Runs of all prompts that are not runs yet, in one pass over the weights.
local function run_prompts(model, list, options)
  local prompts, where = {}, {}
  for i, pair in ipairs(list) do
    for _, side in ipairs { "clean", "corrupt" } do
      local prompt = pair[side]
      if prompt == nil then core.raise(("pair %d: %s is missing: a text, a list of token ids, or a run"):format(i, side)) end
      if getmetatable(prompt) ~= "run" then
        prompts[#prompts + 1] = prompt
        where[#prompts] = { i, side }
      elseif prompt.model ~= model and prompt.model.folder ~= model.folder then
        core.raise(("pair %d: the %s run is of another model"):format(i, side))
      end
    end
  end
  local runs = {}
  for i, pair in ipairs(list) do runs[i] = { clean = pair.clean, corrupt = pair.corrupt } end
  for k, run in ipairs(model:runs(prompts, options)) do runs[where[k][1]][where[k][2]] = run end
  return runs
end

function pb.pairs(model, list, options)
  if getmetatable(model) ~= "model" then core.raise("pb.pairs(model, list): the first argument must be a model, got " .. core.describe(model)) end
  core.check_list(list, "the second argument of pb.pairs")
  if #list == 0 then core.raise("pb.pairs: the list of pairs is empty") end
  core.fields(options or {}, { "bos" }, 0, "pb.pairs")
  for i, pair in ipairs(list) do core.fields(pair, PAIR_FIELDS, 0, "pair " .. i) end
  local runs, set = run_prompts(model, list, options), {}
  for i, pair in ipairs(list) do
    local clean, corrupt = runs[i].clean, runs[i].corrupt
    if #clean ~= #corrupt then
      core.raise(("pair %d: the clean prompt has %d tokens and the corrupted one %d:\n%s"):format(
        i, #clean, #corrupt, clean:side_by_side(corrupt, "clean", "corrupt")))
    end
    set[i] = { clean = clean, corrupt = corrupt, answer = check_tokens(model, pair, "answer", i), wrong = check_tokens(model, pair, "wrong", i),
               positions = check_positions(pair, i), name = pair.name, info = pair.info }
  end
  return new(model, set)
end

-- set:split(0.5) -> the first half, the rest
function Set:split(share)
  check(self, "split")
  if type(share) ~= "number" or share <= 0 or share >= 1 then core.raise("split(share): a share between 0 and 1, got " .. core.describe(share)) end
  local first, rest = {}, {}
  local n = math.floor(#self * share + 0.5)
  if n == 0 or n == #self then core.raise(("%d pairs split at %g leave an empty part"):format(#self, share)) end
  for i = 1, #self do
    if i <= n then first[i] = self[i] else rest[i - n] = self[i] end
  end
  return new(self.model, first), new(self.model, rest)
end

-- set:filter(function(pair, i) return true end) -> a set of those pairs
function Set:filter(keep)
  check(self, "filter")
  if type(keep) ~= "function" then core.raise("filter(function(pair, i) ... end): got " .. core.describe(keep)) end
  local kept = {}
  for i = 1, #self do
    if keep(self[i], i) then kept[#kept + 1] = self[i] end
  end
  if #kept == 0 then core.raise("filter kept none of the " .. #self .. " pairs") end
  return new(self.model, kept)
end

-- A position by name: the pair's own, or "end", the last.
local function named_position(pair, name, i)
  local position = pair.positions[name]
  if position ~= nil then return position end
  if name == "end" then return -1 end
  local known = core.sorted_keys(pair.positions)
  local near = core.suggest(name, known)
  core.raise(("pair %d has no position '%s'%s"):format(i, name, near and "; did you mean '" .. near .. "'?" or
             #known > 0 and " (it has " .. table.concat(known, ", ") .. ")" or ": pairs get them as positions = { name = ... }"))
end

-- ---- metrics -----------------------------------------------------------------------------------------------------------------

local function needs(pair, field, name, i)
  if pair[field] == nil then core.raise(("pair %d has no %s, which the metric %s needs"):format(i, field, name)) end
  return pair[field]
end

-- The metric by name for one pair; kl is from the clean run's prediction.
local function metric_of(pair, name, i)
  if name == "nll" then return pb.metric.nll() end
  if name == "kl" then return pb.metric.kl(pair.clean) end
  if name == "logit_diff" or name == "prob_diff" then
    return pb.metric[name](needs(pair, "answer", name, i), needs(pair, "wrong", name, i))
  end
  return pb.metric[name](needs(pair, "answer", name, i))
end

-- metric: a name, a metric, or function(pair) -> metric. Gives a function of (pair, i).
local function metric_maker(metric, where)
  if type(metric) == "function" then return metric end
  if getmetatable(metric) == "metric" then return function() return metric end end
  for _, name in ipairs(METRICS) do
    if metric == name then return function(pair, i) return metric_of(pair, name, i) end end
  end
  local near = type(metric) == "string" and core.suggest(metric, METRICS)
  core.raise(("%s: metric must be one of %s, or a metric; got %s%s"):format(where, table.concat(METRICS, ", "), core.describe(metric),
             near and " (did you mean '" .. near .. "'?)" or ""))
end

-- set:metric("logit_diff", 3) -> the metric of pair 3, with its own answers
function Set:metric(metric, i)
  check(self, "metric")
  return metric_maker(metric, "set:metric")(self[i], i)
end

-- set:position("subject", 3) -> the position, or list of positions, that pair 3 has under this name
function Set:position(name, i)
  check(self, "position")
  return named_position(self[i], name, i)
end

-- set:measure("logit_diff" [, "clean" | "corrupt"]) -> tensor [n]: the metric of every pair as it is
function Set:measure(metric, side)
  check(self, "measure")
  side = side or "clean"
  if side ~= "clean" and side ~= "corrupt" then core.raise("measure(metric, side): side must be \"clean\" or \"corrupt\", got " .. core.describe(side)) end
  local make, requests = metric_maker(metric, "set:measure"), {}
  for i = 1, #self do requests[i] = { run = self[i][side], metric = make(self[i], i) } end
  return pb.measure(requests)
end

-- set:accuracy([model]) -> share of clean prompts whose answer is the likeliest token
function Set:accuracy(model)
  check(self, "accuracy")
  local prompts, requests = {}, {}
  model = model or self.model
  for i = 1, #self do prompts[i] = self[i].clean.tokens end
  local runs = model == self.model and {} or model:runs(prompts)
  for i = 1, #self do
    requests[i] = { run = runs[i] or self[i].clean, metric = pb.metric.rank(needs(self[i], "answer", "rank", i)) }
  end
  return pb.measure(requests):eq(0):mean()
end

-- ---- sweeps -------------------------------------------------------------------------------------------------------------------

-- The field with names replaced by the pair's numbers. In a list each entry stays one coordinate, named for the label.
local function resolve(pair, field, i)
  if type(field) == "string" and field ~= "all" then return named_position(pair, field, i) end
  if type(field) ~= "table" then return field end
  local list = { name = field.name }
  for j, entry in ipairs(field) do
    if type(entry) == "string" then
      local position = named_position(pair, entry, i)
      list[j] = type(position) == "table" and { name = entry, table.unpack(position) } or { name = entry, position }
    else
      list[j] = entry
    end
  end
  return list
end

-- A fixed coordinate (no axis): all that was named, in one flat list.
local function flatten(field)
  if type(field) ~= "table" then return field end
  local flat = {}
  for _, entry in ipairs(field) do
    for _, c in ipairs(type(entry) == "table" and entry or { entry }) do flat[#flat + 1] = c end
  end
  return flat
end

local function spec_of_pair(spec, pair, i)
  local own = {}
  for key, value in pairs(spec) do own[key] = value end
  local over = type(spec.over) == "table" and spec.over or { spec.over }
  for _, axis in ipairs { "pos", "dest", "src" } do
    own[axis] = resolve(pair, spec[axis], i)
    local swept = false
    for _, name in ipairs(over) do swept = swept or name == axis end
    if not swept then own[axis] = flatten(own[axis]) end
  end
  own.direction, own.metric = nil, nil
  return own
end

local function check_same_shape(set, first, grid, i)
  for a, axis in ipairs(grid.axes) do
    if grid.shape[a] ~= first.shape[a] then
      core.raise(("the prompts of pairs 1 and %d have %d and %d tokens, so their positions have no mean: sweep named positions " ..
                  "(pos = { \"subject\", \"end\" }, given with the pairs), or leave out '%s'"):format(i, #set[1].clean, #set[i].clean, axis))
    end
  end
end

-- set:sweep { site =, over =, metric =, direction = "denoising" | "noising", ... }: as run:sweep. Denoising patches values of the
-- clean run into the corrupted one; noising the other way. With value, zero, mean, noise ... the clean run is changed.
function Set:sweep(spec)
  check(self, "sweep")
  if type(spec) ~= "table" then core.raise("set:sweep takes a table of named arguments, got " .. core.describe(spec)) end
  local direction = spec.direction or "denoising"
  if direction ~= "denoising" and direction ~= "noising" then
    core.raise("set:sweep: direction must be \"denoising\" (clean into corrupted) or \"noising\", got " .. core.describe(direction))
  end
  local acts = false
  for _, name in ipairs { "value", "zero", "mean", "add", "scale", "noise", "fn" } do acts = acts or spec[name] ~= nil end
  if acts and spec.direction then core.raise("set:sweep: direction is for values that come from the other prompt of the pair") end
  if spec.from ~= nil then core.raise("set:sweep: the values come from the other prompt of each pair; direction says which way") end
  local make = metric_maker(spec.metric, "set:sweep")
  local jobs, grids, metrics, specs = {}, {}, {}, {}
  for i = 1, #self do
    local pair = self[i]
    local own = spec_of_pair(spec, pair, i)
    local run = (acts or direction == "noising") and pair.clean or pair.corrupt
    if not acts then own.from = direction == "noising" and pair.corrupt or pair.clean end
    grids[i], metrics[i], specs[i] = core.expand(run, own), make(pair, i), own
    check_same_shape(self, grids[1], grids[i], i)
    jobs[i] = { run = run, spec = own, grid = grids[i], metric = metrics[i] }
    grids[i].run = run
  end
  local measured, places = core.measure_sweeps(jobs, spec)
  if spec.dry then return measured end
  local unit, label, parts = core.unit_of(metrics[1]), type(spec.metric) == "string" and spec.metric or tostring(metrics[1]), {}
  local differ, tokens = false, grids[1].labels
  for i = 1, #self do
    parts[i] = core.collect(measured, places[i], grids[i], unit, tostring(metrics[i]), core.about_sweep(grids[i].run, specs[i], grids[i], metrics[i]))
    for _, axis in ipairs(grids[1].axes) do
      for j, text in ipairs(grids[i].labels[axis]) do differ = differ or text ~= tokens[axis][j] end
    end
  end
  local about = core.about_sweep(grids[1].run, specs[1], grids[1], metrics[1])
  about.pairs, about.metric, about.direction = #self, label, not acts and direction or nil
  local labels
  if differ then -- prompts differ: positions are labelled by number (named ones keep their names)
    labels = {}
    for _, axis in ipairs(grids[1].axes) do
      labels[axis] = {}
      for j, c in ipairs(grids[1].coords[axis]) do labels[axis][j] = core.grid.coordinate_text(c) end
    end
  end
  return core.grid.mean(parts, { about = about, metric = label, labels = labels })
end

function meta.__len(self) return rawlen(self) end

core.methods.set = Set
core.metric_maker = metric_maker
