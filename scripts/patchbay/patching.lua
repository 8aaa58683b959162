-- Activation patching (Meng et al. 2022; TransformerLens's patching.py): put one value of the other prompt of a pair into this
-- one and measure. "denoising" puts clean values into the corrupted run, "noising" the other way. Values are raw; grid:recovered()
-- gives shares. Many pairs at once: mean, standard error, each pair's grid in .parts.
local pb = require "patchbay"
local cells, places = require "patchbay.cells", require "patchbay.places"

local patching = {}

-- TransformerLens's get_act_patch_NAME: which site, over which axes. "head out" is z, before W_O: the same effect, since W_O is
-- linear. A patched pattern row is not renormalised. k and v have key-value heads.
local SWEEPS = {
  resid_pre  = { "resid_pre", { "layer", "pos" } },
  resid_mid  = { "resid_mid", { "layer", "pos" } },
  resid_post = { "resid_post", { "layer", "pos" } },
  attn_out   = { "attn_out", { "layer", "pos" } },
  mlp_out    = { "mlp_out", { "layer", "pos" } },
  attn_head_out_by_pos = { "z", { "layer", "pos", "head" } },
  attn_head_q_by_pos   = { "q", { "layer", "pos", "head" } },
  attn_head_k_by_pos   = { "k", { "layer", "pos", "head" } },
  attn_head_v_by_pos   = { "v", { "layer", "pos", "head" } },
  attn_head_out_all_pos = { "z", { "layer", "head" } },
  attn_head_q_all_pos   = { "q", { "layer", "head" } },
  attn_head_k_all_pos   = { "k", { "layer", "head" } },
  attn_head_v_all_pos   = { "v", { "layer", "head" } },
  attn_head_pattern_by_pos       = { "pattern", { "layer", "head", "dest" } },
  attn_head_pattern_dest_src_pos = { "pattern", { "layer", "head", "dest", "src" } },
  attn_head_pattern_all_pos      = { "pattern", { "layer", "head" } },
  neurons        = { "mlp_post", { "layer", "neuron" } },
  neurons_by_pos = { "mlp_post", { "layer", "pos", "neuron" } },
}

local OPTIONS = { "layer", "pos", "head", "neuron", "dest", "src", "window", "direction", "with", "memory", "dry" }

local function sweep(name, set, metric, given)
  local o = pb.options(given, OPTIONS, "patching." .. name)
  set, o.metric = cells.set(set, "patching." .. name), metric or "logit_diff"
  o.site, o.over = SWEEPS[name][1], SWEEPS[name][2]
  if math.type(o.window) == "integer" and o.window > set.model.layers then
    pb.fail("patching.%s: a window of %d layers is wider than the model, which has %d", name, o.window, set.model.layers)
  end
  for _, axis in ipairs(o.over) do
    if (axis == "pos" or axis == "dest" or axis == "src") and o[axis] == nil then
      local positions = cells.positions(set, "patching." .. name)
      if positions ~= "all" then o[axis] = positions end
    end
  end
  local grid = set:sweep(o)
  return o.dry and grid or grid:titled(name)
end

-- patching.resid_pre(set, "logit_diff" [, { layer =, pos =, head =, window =, direction =, memory =, dry = }]) -> grid
for name in pairs(SWEEPS) do
  patching[name] = function(set, metric, options) return sweep(name, set, metric, options) end
end

-- The stacks: a list of grids, which pb.plot.panels draws. TransformerLens stacks them into one array and pads k and v of
-- grouped-query models with zeros; here each keeps its own heads.
local function every(...)
  local names = { ... }
  return function(set, metric, options)
    local list = {}
    for i, name in ipairs(names) do list[i] = sweep(name, set, metric, options) end
    return list
  end
end

patching.block_every = every("resid_pre", "attn_out", "mlp_out")
patching.attn_head_all_pos_every = every("attn_head_out_all_pos", "attn_head_q_all_pos", "attn_head_k_all_pos", "attn_head_v_all_pos",
                                         "attn_head_pattern_all_pos")
patching.attn_head_by_pos_every = every("attn_head_out_by_pos", "attn_head_q_by_pos", "attn_head_k_by_pos", "attn_head_v_by_pos",
                                        "attn_head_pattern_by_pos")

local function sides(direction, name)
  pb.one_of(direction, { "denoising", "noising" }, name .. ": direction")
  if direction == "denoising" then return "corrupt", "clean" end
  return "clean", "corrupt"
end

-- patching.groups(set, metric, { { name = "movers", { site = "z", layer = 2, head = 3, pos = "end" }, ... }, ... } [, options])
-- -> grid [group]: all places of a group patched together
function patching.groups(set, metric, groups, given)
  local o = pb.options(given, { "memory", "dry", direction = "denoising" }, "patching.groups")
  set = cells.set(set, "patching.groups")
  local into, from = sides(o.direction, "patching.groups")
  o.metric, o.run, o.target, o.name = metric or "logit_diff", into, from, "groups"
  return cells.measure(set, cells.named(places.groups(groups, "patching.groups"), "group"), function(pair, group, i)
    return cells.patches(set, i, group, { from = pair[from] })
  end, o)
end

-- Every head's output and every MLP, at all positions.
function patching.components(model)
  local list = {}
  for layer = 0, model.layers - 1 do
    for head = 0, model.heads - 1 do list[#list + 1] = { site = "z", layer = layer, head = head, name = ("%d.%d"):format(layer, head) } end
    list[#list + 1] = { site = "mlp_out", layer = layer, name = "mlp " .. layer }
  end
  return list
end

patching.greedy = require "patchbay.greedy"

-- get_act_patch_resid_pre and the like: the same functions under TransformerLens's full names.
return setmetatable(patching, { __index = function(_, name)
  local short = type(name) == "string" and name:match "^get_act_patch_(.+)$"
  if short and rawget(patching, short) then return rawget(patching, short) end
  pb.fail("patchbay.patching has no function '%s' (patchbay help patching lists them)", tostring(name))
end })
