-- Nodes of the computation, as path patching names its senders and receivers: { site =, layer =, head =, heads =, neuron =, pos = }, a
-- list of such, or the text "logits". Here they become places: a full site with coordinates of one prompt.
local pb = require "patchbay"

local nodes = {}

local ALIASES = {
  sender = { head = { "z" }, attn = { "attn_out" }, mlp = { "mlp_out" }, neuron = { "mlp_post" } },
  receiver = { head = { "q", "k", "v" }, pattern = { "q", "k" }, attn = { "attn_in" }, mlp = { "mlp_in" }, neuron = { "mlp_pre" } },
}

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
