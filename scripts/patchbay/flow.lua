-- Attention rollout and attention flow (Abnar and Zuidema 2020), and the prompts that excite a neuron most; part of patchbay.lens.
local pb = require "patchbay"

local flow = {}

local function options(run, given, fields, name)
  fields.residual, fields.layers = 0.5, getmetatable(run) == "run" and run.model.layers or pb.fail("%s: the first argument must be a run", name)
  local o = pb.options(given, fields, name)
  if type(o.residual) ~= "number" or o.residual < 0 or o.residual > 1 then pb.fail("%s: residual must be a share from 0 to 1, got %s", name, tostring(o.residual)) end
  if math.type(o.layers) ~= "integer" or o.layers < 1 or o.layers > run.model.layers then
    pb.fail("%s: layers must be 1 to %d, got %s", name, run.model.layers, tostring(o.layers))
  end
  return o
end

-- What a position takes from each position below: the mean pattern of a layer's heads, mixed with the identity. [dest, src]
local function step(run, layer, residual)
  local mixed = run:value("pattern", layer):mean(0) * (1 - residual)
  for p = 0, #run - 1 do mixed:set(p, p, mixed:get(p, p) + residual) end
  return mixed
end

-- lens.rollout(run [, { residual = 0.5, layers = }]) -> grid [dest, src]: the steps of all layers multiplied up
function flow.rollout(run, given)
  local o, through = options(run, given, {}, "lens.rollout"), nil
  for layer = 0, o.layers - 1 do through = through and step(run, layer, o.residual):matmul(through) or step(run, layer, o.residual) end
  return pb.grid { values = through, axes = { "dest", "src" }, labels = { dest = run.labels, src = run.labels }, unit = "rollout", name = "attention rollout",
                   about = { model = run.model.name, prompt = run.text } }
end

-- The largest flow from source to sink along capacity[node][next] = number (changed: what is left), by shortest augmenting paths (Edmonds and
-- Karp 1972).
local function largest_flow(capacity, source, sink)
  local total = 0
  while true do
    local before, queue, at = { [source] = source }, { source }, 1
    while queue[at] and not before[sink] do
      for node, left in pairs(capacity[queue[at]]) do
        if left > 1e-9 and not before[node] then before[node], queue[#queue + 1] = queue[at], node end
      end
      at = at + 1
    end
    if not before[sink] then return total end
    local least, node = math.huge, sink
    while node ~= source do least, node = math.min(least, capacity[before[node]][node]), before[node] end
    node, total = sink, total + least
    while node ~= source do
      local from = before[node]
      capacity[from][node], capacity[node][from] = capacity[from][node] - least, (capacity[node][from] or 0) + least
      node = from
    end
  end
end

-- lens.flow(run [, { pos = -1, residual = 0.5, layers = }]) -> grid [src]: how much can flow from a position at the top to each token, if every
-- step passes on at most what attention (and the skip path) gives it
function flow.flow(run, given)
  local o = options(run, given, { pos = -1 }, "lens.flow")
  local T, steps, values = #run, {}, {}
  local pos = math.type(o.pos) == "integer" and (o.pos < 0 and o.pos + T or o.pos) or -1
  if pos < 0 or pos >= T then pb.fail("lens.flow: position %s is not in a prompt of %d tokens", tostring(o.pos), T) end
  for layer = 0, o.layers - 1 do steps[layer] = step(run, layer, o.residual):totable() end
  for src = 0, T - 1 do
    local capacity = {} -- node: layer boundary * T + position
    for node = 0, (o.layers + 1) * T - 1 do capacity[node] = {} end
    for layer = 0, o.layers - 1 do
      for dest = 0, pos do
        for below = 0, dest do capacity[(layer + 1) * T + dest][layer * T + below] = steps[layer][dest + 1][below + 1] end
      end
    end
    values[src + 1] = src <= pos and largest_flow(capacity, o.layers * T + pos, src) or 0
  end
  return pb.grid { values = pb.tensor(values), axes = { "src" }, labels = { src = run.labels }, unit = "largest flow", name = "attention flow",
                   about = { model = run.model.name, prompt = run.text, pos = pos } }
end

-- lens.examples(model, prompts, { layer =, neuron =, k = 10, batch = 32 }) -> list of { value =, prompt =, pos =, token =, run = }, the largest first
function flow.examples(model, prompts, given)
  local o, best = pb.options(given, { "layer", "neuron", k = 10, batch = 32 }, "lens.examples"), {}
  if not o.layer or not o.neuron then pb.fail "lens.examples needs layer and neuron" end
  prompts = require "patchbay.means".prompts(prompts, "lens.examples")
  for first = 1, #prompts, o.batch do
    for i, run in ipairs(require "patchbay.means".runs(model, { table.unpack(prompts, first, math.min(first + o.batch - 1, #prompts)) })) do
      local values = run[{ site = "mlp_post", layer = o.layer, neuron = o.neuron }]:reshape(-1)
      local top, places = values:topk(math.min(o.k, #run))
      for j, pos in ipairs(places:tolist()) do
        pos = math.tointeger(pos)
        best[#best + 1] = { value = top:get(j - 1), prompt = first + i - 1, pos = pos, token = run.labels[pos + 1], run = run }
      end
    end
    table.sort(best, function(a, b)
      if a.value ~= b.value then return a.value > b.value end
      return a.prompt < b.prompt or (a.prompt == b.prompt and a.pos < b.pos)
    end)
    for j = #best, o.k + 1, -1 do best[j] = nil end
  end
  return best
end

return flow
