-- Nodes of the computation, as path patching names its senders and receivers: { site =, layer =, head =, heads =, neuron =, pos = }, a
-- list of such, or the text "logits". Here they become places: a full site with coordinates of one prompt.
local pb = require "patchbay"

local nodes = {}

local ALIASES = {
  sender = { head = { "z" }, attn = { "attn_out" }, mlp = { "mlp_out" }, neuron = { "mlp_post" } },
  receiver = { head = { "q", "k", "v" }, pattern = { "q", "k" }, attn = { "attn_in" }, mlp = { "mlp_in" }, neuron = { "mlp_pre" } },
}

-- Where in a block a site is: what has a larger number can depend on what has a smaller one.
local ORDER = { embed = -1, pos_embed = -1, resid_pre = 0, attn_in = 1, q_input = 1, k_input = 1, v_input = 1, ln1_scale = 1, ln1_normalized = 1,
                q = 1, k = 1, v = 1, rot_q = 1, rot_k = 1, attn_scores = 1, pattern = 1, z = 2, result = 2, attn_out = 3, resid_mid = 4, mlp_in = 5,
                ln2_scale = 5, ln2_normalized = 5, mlp_pre = 5, mlp_pre_linear = 5, mlp_post = 6, mlp_out = 7, resid_post = 8 }
local FIELDS = { "site", "layer", "head", "heads", "neuron", "pos", "name", "value", "se", "token" }

local names_of = setmetatable({}, { __mode = "k" }) -- model -> "short@layer" -> full name

local function names(model)
  local map = names_of[model]
  if not map then
    map = {}
    for _, full in ipairs(model:sites()) do
      local site = model:site(full)
      map[site.name .. "@" .. (site.layer or "")] = full
    end
    names_of[model] = map
  end
  return map
end

function nodes.has(model, site) return (pcall(model.site, model, site)) end

-- "logits" or a node as a table; a bare { layer =, head = } (as grid:top gives) is a head.
function nodes.one(node)
  if node == "logits" then return { site = "logits" } end
  if type(node) == "string" then return { site = node } end
  if type(node) ~= "table" then pb.fail("a node is { site =, layer =, head = } or \"logits\", got %s", tostring(node)) end
  return node
end

local function as_list(x) return type(x) == "table" and x or { x } end

-- Positions of prompt i as a list without repeats, or nil for all.
local function positions(set, i, pos)
  if pos == nil or pos == "all" then return nil end
  local list, seen, n = {}, {}, #set[i].clean
  for _, entry in ipairs(as_list(pos)) do
    for _, p in ipairs(as_list(type(entry) == "string" and set:position(entry, i) or entry)) do
      if math.type(p) ~= "integer" or p >= n or p < -n then pb.fail("position %s is not in a prompt of %d tokens", tostring(p), n) end
      p = p < 0 and p + n or p
      if not seen[p] then seen[p], list[#list + 1] = true, p end
    end
  end
  table.sort(list)
  return list
end

local function add(list, model, node, short, layer, head, pos)
  local full = names(model)[short .. "@" .. (layer or "")]
  if not full then pb.fail("site '%s' is not in layer %s: the layers are 0 to %d", short, tostring(layer), model.layers - 1) end
  list[#list + 1] = { short = short, full = full, layer = layer, head = head, neuron = node.neuron and as_list(node.neuron), pos = pos }
end

-- The places of a node in pair i. role: "sender" or "receiver"; pos: where the node does not say.
function nodes.places(set, i, node, role, pos)
  node = nodes.one(node)
  local model, list = set.model, {}
  if node[1] then
    for _, part in ipairs(node) do
      for _, place in ipairs(nodes.places(set, i, part, role, pos)) do list[#list + 1] = place end
    end
    return list
  end
  pb.options(node, FIELDS, "a node of a path")
  local site = node.site or (role == "sender" and node.head and "z") or pb.fail("a %s needs a site: { site = \"%s\", layer =, head = }", role, role == "sender" and "z" or "q")
  local pos_of = positions(set, i, node.pos == nil and pos or node.pos)
  for _, name in ipairs(ALIASES[role][site] or { site }) do
    local info = model:site(name)
    if info.axes[1] ~= "pos" or info.name == "logits" then pb.fail("'%s' cannot be a %s: attention patterns change through q and k (site = \"pattern\" as a receiver)", name, role) end
    if node.heads then -- cells with query heads: at sites with key-value heads, the one that they share
      for _, cell in ipairs(node.heads) do
        local head = cell.head or cell[2]
        add(list, model, node, info.name, cell.layer or cell[1], { head * info.heads // model.heads }, pos_of)
      end
    elseif info.layer or not info.layers then
      add(list, model, node, info.name, info.layer, node.head and as_list(node.head), pos_of)
    else
      if node.layer == nil then pb.fail("a %s at '%s' needs a layer, or heads = { { layer =, head = }, ... }", role, name) end
      for _, layer in ipairs(as_list(node.layer)) do
        add(list, model, node, info.name, layer < 0 and layer + model.layers or layer, node.head and as_list(node.head), pos_of)
      end
    end
  end
  return list
end

function nodes.order(place)
  if not place.layer then return place.short:find "embed" and -1 or math.huge end
  return place.layer * 10 + (ORDER[place.short] or 5)
end

function nodes.earliest(places)
  local least = math.huge
  for _, place in ipairs(places) do least = math.min(least, nodes.order(place)) end
  return least
end

function nodes.first_layer(places)
  local layer = math.huge
  for _, place in ipairs(places) do layer = math.min(layer, place.layer or (place.short:find "embed" and 0 or math.huge)) end
  return layer
end

function nodes.first_position(places)
  local pos = math.huge
  for _, place in ipairs(places) do pos = math.min(pos, place.pos and place.pos[1] or 0) end
  return pos
end

-- The first position where two prompts differ (the last, if none).
function nodes.first_difference(run, other)
  local a, b = run.tokens, other.tokens
  for p = 1, #a do
    if a[p] ~= b[p] then return p - 1 end
  end
  return #a - 1
end

-- Sites of the scales of a model's norms in the layers.
function nodes.norms(model)
  local list = {}
  for _, norm in ipairs { "ln1", "ln1_post", "ln2", "ln2_post" } do
    if nodes.has(model, norm .. ".hook_scale") then list[#list + 1] = norm .. ".hook_scale" end
  end
  return list
end

function nodes.positions_from(first, length)
  if first == 0 then return nil end
  local list = {}
  for p = first, length - 1 do list[#list + 1] = p end
  return list
end

local function without(n, live)
  local rest = {}
  for i = 0, n - 1 do
    if not live[i] then rest[#rest + 1] = i end
  end
  return rest
end

-- What of a layer must be computed because places in it are changed: attn: z cannot be held as a whole, and heads_held are those
-- that can; the same for mlp and neurons.
function nodes.live(model, places, layer)
  local live, heads, neurons = {}, {}, {}
  for _, place in ipairs(places) do
    local order = ORDER[place.short]
    if place.layer == layer and (order == 1 or order == 2) then
      live.attn = true
      local n = model:site(place.full).heads or model.heads
      for h = 0, order == 1 and model.heads - 1 or -1 do
        local own = h * n // model.heads
        for _, head in ipairs(place.head or { own }) do heads[h] = heads[h] or head == own end
      end
    elseif place.layer == layer and (order == 5 or order == 6) then
      live.mlp = true
      local whole = place.short == "mlp_in" or place.short:find "^ln2"
      for k = 0, order == 5 and (whole or not place.neuron) and model.d_mlp - 1 or -1 do neurons[k] = true end
      for _, k in ipairs(order == 5 and not whole and place.neuron or {}) do neurons[k] = true end
    end
  end
  live.heads_held, live.neurons_held = live.attn and without(model.heads, heads), live.mlp and without(model.d_mlp, neurons)
  return live
end

function nodes.sites(places)
  local list, seen = {}, {}
  for _, place in ipairs(places) do
    if not seen[place.full] then seen[place.full], list[#list + 1] = true, place.full end
    -- the last stream is computed where something after it is asked for
    if place.short == "resid_post" then seen.last = true end
  end
  if seen.last then list[#list + 1] = "ln_final.hook_scale" end
  return list
end

-- The chosen entries of a site's whole value, every axis kept.
function nodes.pick(value, place)
  if place.pos then value = value:index(0, place.pos) end
  if place.head then value = value:index(1, place.head) end
  if place.neuron then value = value:index(-1, place.neuron) end
  return value
end

function nodes.patch(place, action)
  local patch = { site = place.full, pos = place.pos, head = place.head, neuron = place.neuron }
  for key, value in pairs(action) do patch[key] = value end
  return patch
end

return nodes
