-- Weights to begin training from, by the shapes that a configuration of the gpt2 or llama family asks for: train.init.
local pb = require "patchbay"

local function gpt2_shapes(c)
  local d, shapes = c.n_embd, {}
  local inner = type(c.n_inner) == "number" and c.n_inner or 4 * d
  local function add(name, ...) shapes["transformer." .. name] = { ... } end
  add("wte.weight", c.vocab_size, d)
  add("wpe.weight", c.n_positions, d)
  for l = 0, c.n_layer - 1 do
    local h = ("h.%d."):format(l)
    for _, norm in ipairs { "ln_1", "ln_2" } do
      add(h .. norm .. ".weight", d)
      add(h .. norm .. ".bias", d)
    end
    for name, size in pairs { ["attn.c_attn"] = { d, 3 * d }, ["attn.c_proj"] = { d, d }, ["mlp.c_fc"] = { d, inner }, ["mlp.c_proj"] = { inner, d } } do
      add(h .. name .. ".weight", size[1], size[2])
      add(h .. name .. ".bias", size[2])
    end
  end
  add("ln_f.weight", d)
  add("ln_f.bias", d)
  if c.tie_word_embeddings == false then shapes["lm_head.weight"] = { c.vocab_size, d } end
  return shapes
end

local function llama_shapes(c)
  local d, heads, shapes = c.hidden_size, c.num_attention_heads, {}
  local width = (type(c.head_dim) == "number" and c.head_dim or d // heads)
  local kv = (c.num_key_value_heads or heads) * width
  shapes["model.embed_tokens.weight"], shapes["model.norm.weight"] = { c.vocab_size, d }, { d }
  for l = 0, c.num_hidden_layers - 1 do
    local function add(name, ...) shapes[("model.layers.%d.%s.weight"):format(l, name)] = { ... } end
    add("input_layernorm", d)
    add("post_attention_layernorm", d)
    add("self_attn.q_proj", heads * width, d)
    add("self_attn.k_proj", kv, d)
    add("self_attn.v_proj", kv, d)
    add("self_attn.o_proj", d, heads * width)
    add("mlp.gate_proj", c.intermediate_size, d)
    add("mlp.up_proj", c.intermediate_size, d)
    add("mlp.down_proj", d, c.intermediate_size)
  end
  if not c.tie_word_embeddings then shapes["lm_head.weight"] = { c.vocab_size, d } end
  return shapes
end

local FAMILIES = { gpt2 = gpt2_shapes, llama = llama_shapes }
local TABLE = { ["transformer.wte.weight"] = true, ["transformer.wpe.weight"] = true, ["model.embed_tokens.weight"] = true }

-- What a weight is: "norm", "bias", "table" (rows are looked up), "writer" (writes to the residual stream) or "reader".
local function role_of(name, shape)
  if name:find "bias$" then return "bias" end
  if #shape == 1 then return "norm" end
  if TABLE[name] then return "table" end
  return (name:find "c_proj" or name:find "o_proj" or name:find "down_proj") and "writer" or "reader"
end

-- Position embeddings [positions, d] whose first half of dimensions are sines, then cosines, of amplitude; dimension i of d // 4 turns by
-- turn(i) with each token; zeros in the others. "The token before" is then one linear map for all positions from the start.
local function sinusoids(positions, d, amplitude, turn)
  local quarter, rows = d // 4, {}
  for p = 0, positions - 1 do
    local row = {}
    for i = 1, d do row[i] = 0.0 end
    for i = 0, quarter - 1 do
      row[i + 1], row[quarter + i + 1] = amplitude * math.sin(p * turn(i)), amplitude * math.cos(p * turn(i))
    end
    rows[p + 1] = row
  end
  return pb.tensor(rows)
end

-- train.init(config [, { scheme = "range" | "fan_in", std =, embedding =, sines = false, seed = }]) -> { [name] = tensor }
local function init(config, given)
  local o = pb.options(given, { scheme = "range", sines = false, seed = pb.seed, "std", "embedding" }, "train.init")
  pb.one_of(o.scheme, { "range", "fan_in" }, "train.init: scheme")
  local known = {}
  for family in pairs(FAMILIES) do known[#known + 1] = family end
  table.sort(known)
  local shapes = FAMILIES[pb.one_of(type(config) == "table" and config.model_type, known, "train.init: config.model_type")](config)
  local std = o.std or type(config.initializer_range) == "number" and config.initializer_range or 0.02
  local layers, names, weights = config.n_layer or config.num_hidden_layers, {}, {}
  for name in pairs(shapes) do names[#names + 1] = name end
  table.sort(names)
  for draw, name in ipairs(names) do
    local shape = shapes[name]
    local role = role_of(name, shape)
    if role == "norm" or role == "bias" then
      weights[name] = role == "norm" and pb.ones(shape) or pb.zeros(shape)
    elseif o.sines and name == "transformer.wpe.weight" then
      weights[name] = sinusoids(shape[1], shape[2], o.sines == true and 0.2 or o.sines, function(i) return 100.0 ^ (-i / (shape[2] // 4)) end)
    else
      local fan_in = config.model_type == "gpt2" and role ~= "table" and shape[1] or shape[2]
      local deviation = role == "table" and (o.embedding or std) or o.scheme == "fan_in" and fan_in ^ -0.5 or std
      if role == "writer" then deviation = deviation / math.sqrt(2 * layers) end
      weights[name] = pb.randn { shape[1], shape[2], seed = o.seed, draw = draw }:mul_(deviation)
    end
  end
  return weights
end

return { init = init, sinusoids = sinusoids }
