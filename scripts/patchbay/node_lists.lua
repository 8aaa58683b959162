-- Lists of nodes, as path patching sweeps over them: by name, as a sweep { site =, over = }, or node by node; and every sender with every
-- receiver as the cells of a grid.
local pb = require "patchbay"
local cells, nodes = require "patchbay.cells", require "patchbay.nodes"

local lists = {}

local SWEPT = { -- senders by name
  heads = { site = "z", over = { "layer", "head" } }, attns = { site = "attn_out", over = { "layer" } },
  mlps = { site = "mlp_out", over = { "layer" } }, neurons = { site = "mlp_post", over = { "layer", "neuron" } },
}

local function label(node)
  if node.name then return node.name end
  if node[1] then return "group" end
  local place = node.head and ("%s.%s"):format(node.layer, type(node.head) == "table" and table.concat(node.head, ",") or node.head) or node.layer
  return node.site and (place and node.site .. " " .. place or node.site) or tostring(place)
end

local function named(list)
  local out = {}
  for i, node in ipairs(list) do
    local own = {}
    for key, value in pairs(nodes.one(node)) do own[key] = value end
    own.name = label(own)
    out[i] = own
  end
  return out
end

-- Everything that writes into the stream, in its order: embeddings, every head and every MLP.
local function components(model)
  local list = { { site = "embed" } }
  if nodes.has(model, "pos_embed") then list[2] = { site = "pos_embed" } end
  for layer = 0, model.layers - 1 do
    for head = 0, model.heads - 1 do list[#list + 1] = { layer = layer, head = head, name = ("%d.%d"):format(layer, head) } end
    list[#list + 1] = { site = "mlp", layer = layer, name = "MLP " .. layer }
  end
  return list
end

-- lists.expand(set, senders or receivers, what they are, the axis of a list) -> cells, each a node
function lists.expand(set, list, what, axis)
  if list == "components" then list = components(set.model) end
  if type(list) == "string" then
    list = SWEPT[list] or pb.fail("path.sweep: %s must be \"heads\", \"attns\", \"mlps\", \"neurons\", \"components\", { site =, over = } or a list; got '%s'", what, list)
  end
  if type(list) ~= "table" then pb.fail("path.sweep: %s is missing: \"heads\", \"mlps\", { site = \"z\", over = { \"layer\", \"head\" } }, or a list", what) end
  if not list.over then return #list > 0 and cells.named(named(list), axis) or pb.fail("path.sweep: the list of %s is empty", what) end
  local out = cells.over(set, list)
  for _, cell in ipairs(out) do
    for _, key in ipairs { "site", "layer", "head", "neuron", "pos" } do
      if cell[key] == nil then cell[key] = list[key] end
    end
  end
  return out
end

-- senders x receivers as cells; with one sender the receivers' axes keep their names, else they are receiver_layer, ...
function lists.product(senders, receivers)
  local list = { axes = {}, coords = {}, labels = {}, shape = {} }
  local function add(from, prefix)
    for a, axis in ipairs(from.axes) do
      local name = axis == "receiver" and axis or prefix .. axis
      list.axes[#list.axes + 1], list.coords[name], list.labels[name] = name, from.coords[axis], from.labels[axis]
      list.shape[#list.shape + 1] = from.shape[a]
    end
  end
  if #senders > 1 or not receivers.axes then add(senders, "") end
  if receivers.axes then add(receivers, #senders > 1 and "receiver_" or "") end
  for s = 1, #senders do
    for r = 1, #receivers do list[#list + 1] = { s = s, r = r } end
  end
  return list
end

return lists
