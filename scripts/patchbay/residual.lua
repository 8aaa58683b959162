-- The residual stream as a sum of what components wrote into it, and direct logit attribution: what each wrote towards an answer, with
-- the final norm held at its scale in this run. The parts add up to the logit difference. It says what is written at the end and read
-- directly; a component that works through later ones shows little (path patching shows that).
local pb = require "patchbay"
local nodes = require "patchbay.nodes"
local residual = {}

local function row(run, site, layer, pos) return run[{ site = site, layer = layer, pos = pos }]:select(0, 0) end

local function position(run, pos)
  if math.type(pos) ~= "integer" or pos >= #run or pos < -#run then pb.fail("pos must be a position of the prompt (%d tokens), got %s", #run, tostring(pos)) end
  return pos < 0 and pos + #run or pos
end

-- residual.accumulated(run, pos) -> tensor [component, d_model], labels: the stream before each layer, in its middle, and at the end
function residual.accumulated(run, pos)
  local model, rows, labels = run.model, {}, {}
  local at, middle = position(run, pos or -1), nodes.has(run.model, "resid_mid")
  for layer = 0, model.layers - 1 do
    rows[#rows + 1], labels[#labels + 1] = row(run, "resid_pre", layer, at), layer .. "_pre"
    if middle then rows[#rows + 1], labels[#labels + 1] = row(run, "resid_mid", layer, at), layer .. "_mid" end
  end
  rows[#rows + 1], labels[#labels + 1] = row(run, "resid_post", model.layers - 1, at), "final_post"
  return pb.stack(rows), labels
end

-- residual.parts(run, pos) -> tensor [component, d_model], labels: embed, pos_embed, 0_attn_out, 0_mlp_out, ...; they add up to the stream
function residual.parts(run, pos)
  local model, rows, labels = run.model, {}, {}
  local at = position(run, pos or -1)
  local function add(site, layer, label) rows[#rows + 1], labels[#labels + 1] = row(run, site, layer, at), label end
  add("embed", nil, "embed")
  if nodes.has(model, "pos_embed") then add("pos_embed", nil, "pos_embed") end
  for layer = 0, model.layers - 1 do
    add("attn_out", layer, layer .. "_attn_out")
    add("mlp_out", layer, layer .. "_mlp_out")
  end
  return pb.stack(rows), labels
end

-- residual.heads(run, pos) -> tensor [layer, head, d_model]: what each head writes, without the bias b_O that all share
function residual.heads(run, pos)
  local rows, at = {}, position(run, pos or -1)
  for layer = 0, run.model.layers - 1 do
    rows[layer + 1] = row(run, "result", layer, at)
    if nodes.has(run.model, "ln1_post.hook_scale") then -- what is added to the stream is scaled by a norm of its own
      local before = rows[layer + 1]:sum(0) + run.model:parameter(("blocks.%d.attn.b_O"):format(layer))
      rows[layer + 1] = rows[layer + 1] * (row(run, "attn_out", layer, at) / before)
    end
  end
  return pb.stack(rows)
end

-- ---- attribution ----------------------------------------------------------------------------------------------------------------------

local function mean_column(W_U, b_U, ids)
  return W_U:index(1, ids):mean(1), b_U:index(0, ids):mean()
end

-- A stream of ones is nothing behind a LayerNorm, which takes the mean away, and ones behind an RMSNorm.
local function centres(run)
  return run:capture({ { { site = "resid_post", layer = -1, value = 1 } } }, "ln_final.hook_normalized")[1]["ln_final.hook_normalized"]:abs():max() < 0.5
end

-- residual.direction(run, answers, wrong, pos) -> u [d_model], constant: logit difference = (stream at pos) . u + constant
function residual.direction(run, answers, wrong, pos, kept)
  local model = run.model
  kept = kept or {}
  if not kept.W_U then
    kept.W_U, kept.b_U = model:parameter "unembed.W_U", model:parameter "unembed.b_U"
    kept.w, kept.b, kept.centred = model:parameter "ln_final.w", model:parameter "ln_final.b", centres(run)
  end
  local u, constant = mean_column(kept.W_U, kept.b_U, answers)
  if wrong then
    local v, c = mean_column(kept.W_U, kept.b_U, wrong)
    u, constant = u - v, constant - c
  end
  constant = constant + (kept.b * u):sum()
  u = u * kept.w
  if kept.centred then u = u - u:mean() end
  return u / row(run, "ln_final.hook_scale", nil, position(run, pos)):item(), constant
end

local function neuron_parts(run, layer, at, u)
  local model = run.model
  local post, W_out = row(run, "mlp_post", layer, at), model:parameter(("blocks.%d.mlp.W_out"):format(layer))
  if not nodes.has(model, "ln2_post.hook_scale") then return post * W_out:matmul(u) end
  local before = post:matmul(W_out) + model:parameter(("blocks.%d.mlp.b_out"):format(layer))
  return post * W_out:matmul(u * row(run, "mlp_out", layer, at) / before)
end

local function of_run(run, answers, wrong, o, kept)
  local model, at = run.model, position(run, o.pos)
  local u, constant = residual.direction(run, answers, wrong, at, kept)
  local parts, labels = residual.parts(run, at)
  local by_name, values, out = {}, parts:matmul(u), {}
  for i, label in ipairs(labels) do by_name[label] = values:get(i - 1) end
  local function grid(axes, tensor, name)
    return pb.grid { axes = axes, values = tensor, name = name, unit = wrong and "logit difference" or "logit", about = { model = model.name, prompt = run.text } }
  end
  local heads = residual.heads(run, at):matmul(u)
  local attn, mlps, neurons = {}, {}, {}
  for layer = 0, model.layers - 1 do
    attn[layer + 1] = by_name[layer .. "_attn_out"] - heads:select(0, layer):sum()
    mlps[layer + 1] = by_name[layer .. "_mlp_out"]
    if o.neurons then neurons[layer + 1] = neuron_parts(run, layer, at, u) end
  end
  out.heads, out.mlps = grid({ "layer", "head" }, heads, "heads"), grid({ "layer" }, pb.tensor(mlps), "MLPs")
  out.attn_bias = grid({ "layer" }, pb.tensor(attn), "attention biases")
  if o.neurons then out.neurons = grid({ "layer", "neuron" }, pb.stack(neurons), "neurons") end
  out.embed, out.pos_embed, out.final_bias = by_name.embed, by_name.pos_embed or 0.0, constant
  out.total = values:sum() + constant
  out.measured = (wrong and pb.metric.logit_diff(answers, wrong, { pos = at }) or pb.metric.logit(answers, { pos = at }))(run)
  return out
end

-- residual.attribution(run, { answer =, wrong =, pos = -1, neurons = false }) or (set, { pos =, neurons =, side = "clean" }) -> table
-- heads [layer, head], mlps [layer], attn_bias [layer], neurons [layer, neuron]: grids, means over a set; embed, pos_embed, final_bias, total
-- (their sum) and measured (what the run's logits say): numbers, lists of them for a set
function residual.attribution(given_run, given)
  local o = pb.options(given, { "answer", "wrong", "neurons", pos = -1, side = "clean" }, "lens.attribution")
  local function ids(model, tokens)
    local list = {}
    for i, token in ipairs(type(tokens) == "table" and tokens or { tokens }) do list[i] = model:token(token) end
    return list
  end
  if getmetatable(given_run) == "run" then
    if o.answer == nil then pb.fail "lens.attribution of a run needs answer, a token" end
    return of_run(given_run, ids(given_run.model, o.answer), o.wrong ~= nil and ids(given_run.model, o.wrong) or nil, o, {})
  end
  local set, parts, out, kept = require "patchbay.cells".set(given_run, "lens.attribution"), {}, {}, {}
  for i = 1, #set do
    if not set[i].answer then pb.fail("lens.attribution: pair %d has no answer", i) end
    parts[i] = of_run(set[i][pb.one_of(o.side, { "clean", "corrupt" }, "lens.attribution: side")], set[i].answer, set[i].wrong, o, kept)
  end
  for name, value in pairs(parts[1]) do
    local list = {}
    for i, part in ipairs(parts) do list[i] = part[name] end
    out[name] = type(value) == "number" and list or pb.mean(list)
  end
  return out
end

return residual
