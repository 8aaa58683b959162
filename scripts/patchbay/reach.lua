-- What a change at a place can reach: the order of sites in the computation, the first layer and position that can differ, and what of a
-- layer has to be computed anew because something in it is changed. Path patching holds everything else.
local nodes = require "patchbay.nodes"

local reach = {}

-- Where in a block a site is: what has a larger number can depend on what has a smaller one.
local ORDER = { embed = -1, pos_embed = -1, resid_pre = 0, attn_in = 1, q_input = 1, k_input = 1, v_input = 1, ln1_scale = 1, ln1_normalized = 1,
                q = 1, k = 1, v = 1, rot_q = 1, rot_k = 1, attn_scores = 1, pattern = 1, z = 2, result = 2, attn_out = 3, resid_mid = 4, mlp_in = 5,
                ln2_scale = 5, ln2_normalized = 5, mlp_pre = 5, mlp_pre_linear = 5, mlp_post = 6, mlp_out = 7, resid_post = 8 }

function reach.order(place)
  if not place.layer then return place.short:find "embed" and -1 or math.huge end
  return place.layer * 10 + (ORDER[place.short] or 5)
end

function reach.earliest(places)
  local least = math.huge
  for _, place in ipairs(places) do least = math.min(least, reach.order(place)) end
  return least
end

function reach.latest(places)
  local most = -math.huge
  for _, place in ipairs(places) do most = math.max(most, reach.order(place)) end
  return most
end

function reach.first_layer(places)
  local layer = math.huge
  for _, place in ipairs(places) do layer = math.min(layer, place.layer or (place.short:find "embed" and 0 or math.huge)) end
  return layer
end

function reach.first_position(places)
  local pos = math.huge
  for _, place in ipairs(places) do pos = math.min(pos, place.pos and place.pos[1] or 0) end
  return pos
end

-- The first position where two prompts differ (the last, if none).
function reach.first_difference(run, other)
  local a, b = run.tokens, other.tokens
  for p = 1, #a do
    if a[p] ~= b[p] then return p - 1 end
  end
  return #a - 1
end

-- Sites of the scales of a model's norms in the layers.
function reach.norms(model)
  local list = {}
  for _, norm in ipairs { "ln1", "ln1_post", "ln2", "ln2_post" } do
    if nodes.has(model, norm .. ".hook_scale") then list[#list + 1] = norm .. ".hook_scale" end
  end
  return list
end

function reach.positions_from(first, length)
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
function reach.live(model, places, layer)
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

return reach
