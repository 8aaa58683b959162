-- Path patching (Wang et al. 2022, appendix B): what does a sender tell a receiver, by no other way? Three passes over a run:
--   1. hold every head (and, with mlps = "frozen", every MLP) at the run's own values, but for the senders, which get the values
--      of the other prompt; note what now arrives at the receivers;
--   2. (only with via = nodes) the same again, with what arrived put into these nodes as senders;
--   3. run again with only the receivers changed to what arrived there, everything else free, and measure.
-- mlps = "live": what passes through MLPs is part of the path, as in the paper; "frozen": the direct edge alone, exact.
-- norms = "frozen": layer norms keep the run's own scale, so that edges are linear and add up.
local pb = require "patchbay"
local cells, nodes, lists, reach = require "patchbay.cells", require "patchbay.nodes", require "patchbay.node_lists", require "patchbay.reach"

local path = {}

-- Hold attention (and MLPs, norms) from the first changed layer on, but for what the changed places need to pass on. The run's own
-- values go in as tensors, which hold.kept has for all variants; before position hold.from no variant differs from the run.
local function held(model, run, places, o, hold)
  local patches = {}
  local function own(site, layer, axis, list)
    local key = ("%s %s %s"):format(site, layer or "", list and axis .. table.concat(list, ",") or "")
    local patch = hold.kept[key]
    if not patch then
      patch = { site = site, layer = layer, pos = reach.positions_from(hold.from, #run), [axis or "head"] = list }
      patch.value = run[patch]
      hold.kept[key] = patch
    end
    patches[#patches + 1] = patch
  end
  for layer = reach.first_layer(places), model.layers - 1 do
    local live = reach.live(model, places, layer)
    if not live.attn then own("attn_out", layer)
    elseif #live.heads_held > 0 then own("z", layer, "head", live.heads_held) end
    if o.mlps == "frozen" then
      if not live.mlp then own("mlp_out", layer)
      elseif #live.neurons_held > 0 then own("mlp_post", layer, "neuron", live.neurons_held) end
    end
    for _, norm in ipairs(o.norms == "frozen" and reach.norms(model) or {}) do own(norm, layer) end
  end
  if o.norms == "frozen" then own("ln_final.hook_scale") end
  return patches
end

-- One variant: everything held, then the places set. action(place) -> { from = run } or { value = tensor }
local function variant(model, run, places, action, o, hold)
  local patches = held(model, run, places, o, hold)
  for _, place in ipairs(places) do
    patches[#patches + 1] = nodes.patch(place, action(place))
  end
  return patches
end

-- What arrives at the places in each variant: place -> tensor, from one pass for all variants.
local function arriving(run, variants, places, o)
  local captured = run:capture(variants, nodes.sites(places), { allow_unread = true, memory = o.memory })
  for i, values in ipairs(captured) do
    local found = {}
    for _, place in ipairs(places) do found[place] = nodes.pick(values[place.full], place) end
    captured[i] = found
  end
  return captured
end

-- Everything about one pair: its variants for the last pass, one for each sender, by receiver.
local function of_pair(set, i, senders, receivers, o)
  local into, from = o.direction == "denoising" and "corrupt" or "clean", o.direction == "denoising" and "clean" or "corrupt"
  local model, run, other = set.model, set[i][into], set[i][from]
  local new = o.new == "zero" and function() return { value = 0 } end or function() return { from = other } end
  local starts, places, order, hold = {}, {}, {}, { kept = {}, from = #run - 1 }
  for s, node in ipairs(senders) do
    places[s] = nodes.places(set, i, node, "sender", o.pos)
    order[s], hold.from = reach.earliest(places[s]), math.min(hold.from, reach.first_position(places[s]))
  end
  if o.new == "other" then hold.from = math.max(hold.from, reach.first_difference(run, other)) end
  for s in ipairs(senders) do starts[s] = variant(model, run, places[s], new, o, hold) end
  for k, node in ipairs(o.via or {}) do
    local stop, connected = nodes.places(set, i, node, "receiver", o.pos), false
    for s, values in ipairs(arriving(run, starts, stop, o)) do
      connected = connected or reach.latest(stop) > order[s]
      starts[s] = variant(model, run, stop, function(place) return { value = values[place] } end, o, hold)
      order[s] = reach.earliest(stop)
    end
    if not connected then pb.fail("path: node %d of the way comes before what should reach it in the computation: no path exists", k + 1) end
  end
  local final, all = {}, {}
  for r, node in ipairs(receivers) do
    final[r] = node.site ~= "logits" and nodes.places(set, i, node, "receiver", o.pos) or false
    for _, place in ipairs(final[r] or {}) do all[#all + 1] = place end
  end
  local arrived = #all > 0 and arriving(run, starts, all, o)
  local reached = false
  return function(s, r)
    if not final[r] then return starts[s] end
    local patches = {}
    for _, place in ipairs(final[r]) do
      if reach.order(place) > order[s] then patches[#patches + 1] = nodes.patch(place, { value = arrived[s][place] }) end
    end
    reached = reached or #patches > 0
    return patches
  end, function() return reached or not final[1] end
end

-- path.sweep(set, { senders =, receiver = node | receivers =, via =, pos =, mlps =, norms =, metric =, direction =, new = }) -> grid
function path.sweep(set, given)
  local o = pb.options(given, { "senders", "receiver", "receivers", "via", "pos", "memory", metric = "logit_diff", mlps = "live", norms = "live",
                                direction = "denoising", new = "other" }, "path.sweep")
  set = cells.set(set, "path.sweep")
  pb.one_of(o.mlps, { "live", "frozen" }, "path.sweep: mlps")
  pb.one_of(o.norms, { "live", "frozen" }, "path.sweep: norms")
  pb.one_of(o.direction, { "denoising", "noising" }, "path.sweep: direction")
  pb.one_of(o.new, { "other", "zero" }, "path.sweep: new")
  if (o.receiver == nil) == (o.receivers == nil) then pb.fail "path.sweep needs receiver (one node) or receivers (a list of them, or { site =, over = })" end
  local senders = lists.expand(set, o.senders, "senders", "sender")
  local receivers = o.receivers and lists.expand(set, o.receivers, "receivers", "receiver") or { nodes.one(o.receiver) }
  local variants, connected, current
  local grid = cells.measure(set, lists.product(senders, receivers), function(_, cell, i)
    if i ~= current then
      if connected and not connected() then pb.fail "path.sweep: no sender comes before a receiver in the computation: no path exists" end
      variants, connected = of_pair(set, i, senders, receivers, o)
      current = i
    end
    return variants(cell.s, cell.r)
  end, { metric = o.metric, run = o.direction == "denoising" and "corrupt" or "clean", memory = o.memory,
         target = o.new == "other" and (o.direction == "denoising" and "clean" or "corrupt") or nil, site = "paths", name = "path patching" })
  if not connected() then pb.fail "path.sweep: no sender comes before a receiver in the computation: no path exists" end
  return grid
end

-- path.chain(set, { first, ..., last } [, options]) -> grid of one cell: from the first node through all others, in their order
function path.chain(set, list, given)
  local o = {}
  for key, value in pairs(given or {}) do o[key] = value end
  if type(list) ~= "table" or #list < 2 then pb.fail "path.chain needs a list of at least two nodes, from the first to the last" end
  o.senders, o.receiver, o.via = { list[1] }, list[#list], { table.unpack(list, 2, #list - 1) }
  return path.sweep(set, o)
end

return path
