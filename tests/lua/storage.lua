-- Models made of tensors, models with some weights replaced, saved models.
local pb, check = require "patchbay", require "patchbay.check"

local model = pb.load "facts"
local prompt = "The Eiffel Tower is located in the city of"

local function all_weights(m)
  local weights = {}
  for _, name in ipairs(m:weights()) do weights[name] = m:weight(name) end
  return weights
end

check.test("pb.model: a model of tensors gives the same numbers", function()
  local copy = pb.model { config = model, weights = all_weights(model), name = "copy" }
  check.eq({ copy.name, copy.family, copy.folder, copy.has_tokenizer }, { "copy", "gpt2", model.folder, true })
  check.ok((model:run(prompt).logits - copy:run(prompt).logits):abs():max() < 1e-4)
  local from_table = pb.model { config = model.config, weights = all_weights(model), tokenizer = model }
  check.eq(from_table:encode(prompt), model:encode(prompt))
  check.ok(not pb.model { config = model.config, weights = all_weights(model) }.has_tokenizer)
end)

check.test("pb.model: changed tensors count, vectors after refresh", function()
  local weights = all_weights(model)
  local copy = pb.model { config = model, weights = weights }
  local before = copy:run(prompt).logits
  local name = "transformer.h.5.mlp.c_proj.bias"
  weights[name]:add_(1)
  check.eq((copy:run(prompt).logits - before):abs():max(), 0.0)
  check.eq(copy:refresh(), copy)
  check.ok((copy:run(prompt).logits - before):abs():max() > 0)
  weights[name]:sub_(1)
  weights["transformer.h.5.mlp.c_proj.weight"]:mul_(2)
  check.ok((copy:run(prompt).logits - before):abs():max() > 0)
end)

check.test("model:with replaces weights and shares the rest", function()
  local name = "transformer.h.3.mlp.c_proj.weight"
  local edited = model:with { [name] = model:weight(name) * 0 }
  check.eq(edited.name, "facts (edited)")
  check.eq(edited:with({}).name, "facts (edited)")
  check.eq(edited:weight(name):abs():max(), 0.0)
  check.ok(model:weight(name):abs():max() > 0)
  check.ok(edited:hash() ~= model:hash())
  -- without its output matrix an MLP writes its bias: the same as patching mlp_post to 0
  local patched = model:run(prompt):patched { { site = "mlp_post", layer = 3, value = 0 } }
  check.eq((edited:run(prompt).logits - patched.logits):abs():max(), 0.0)
end)

check.test("pb.model and model:with: errors name the weight", function()
  local name = "transformer.h.0.ln_1.bias"
  local weights = all_weights(model)
  weights[name] = nil
  check.raises(function() pb.model { config = model, weights = weights } end, "'" .. name .. "'", "missing", "given weights")
  weights[name] = pb.zeros(5)
  check.raises(function() pb.model { config = model, weights = weights } end, name, "[5]", "[128]")
  weights[name] = 3
  check.raises(function() pb.model { config = model, weights = weights } end, name, "a tensor is needed")
  weights[name] = model:weight(name)
  weights.more = pb.zeros(1)
  check.raises(function() pb.model { config = model, weights = weights } end, "'more'", "left over")
  check.raises(function() pb.model { config = 3, weights = {} } end, "config")
  check.raises(function() pb.model { config = {}, weights = {} } end, "config")
  check.raises(function() pb.model { config = "{", weights = {} } end, "config")
  check.raises(function() pb.model { config = model } end, "weights")
  check.raises(function() pb.model { config = model, weights = {}, tokenizer = 3 } end, "tokenizer")
  check.raises(function() model:with { ["transformer.h.0.ln_1.bia"] = weights[name] } end, "did you mean '" .. name)
  check.raises(function() model:with { [name] = pb.zeros(5) } end, name, "[5]", "[128]")
  check.raises(function() model:with { weights[name] } end, "key")
  check.raises(function() model:with { [name] = 1 } end, name)
  local w = "transformer.h.0.mlp.c_fc.weight"
  check.raises(function() model:with { [w] = pb.zeros(512, 128):transpose(0, 1) } end, w, "contiguous")
end)

check.test("model:save writes a folder that pb.load reads", function()
  local name = "transformer.h.3.mlp.c_proj.weight"
  local edited = model:with { [name] = model:weight(name) * 0.5 }
  edited:save("saved/half", { dtype = "f32" })
  edited:save("saved/half")
  check.raises(function() model:save("saved", { dtype = "f64" }) end, "dtype", "bf16")
  check.raises(function() model:save("../outside") end, "..")
  check.raises(function() model:save() end, "folder")
  check.raises(function() pb.load("facts", { fold_ln = true }):save "folded" end, "weight processing")
  local again = pb.load "saved/half" -- the output folder is looked in
  check.eq(again:weight(name), edited:weight(name))
  check.eq(again.folder, check.output_folder() .. "/saved/half")
  edited:save "facts"
  check.eq(pb.load("facts"):weight(name), model:weight(name), "a built-in model's name means that one")
  check.eq(pb.load("./facts"):weight(name), edited:weight(name))
  check.raises(function() pb.load "saved/none" end, "the output folder (" .. check.output_folder() .. ")")
end)

check.test("pb.load: a streamed model has the same numbers", function()
  local streamed = pb.load("facts", { stream = true })
  check.eq({ model.streamed, streamed.streamed, pb.load("facts", { stream = false }).streamed }, { false, true, false })
  local function numbers(m)
    local clean = m:run(prompt)
    local corrupt = clean:fork "The Roman Forum is located in the city of"
    local metric = pb.metric.kl(clean)
    return { clean.logits:tolist(), corrupt:sweep({ site = "resid_pre", from = clean, over = { "layer", "pos" }, metric = metric }).values:tolist(),
             corrupt:grad(metric)["blocks.0.hook_resid_pre"]:tolist(), m:generate { prompt, tokens = 5 },
             m:parameter("unembed.W_U"):sum(), m:weight(m:weights()[1]):sum(), m:hash() }
  end
  check.eq(numbers(streamed), numbers(model))
  local name = "transformer.h.3.mlp.c_proj.weight"
  check.ok(streamed:with({ [name] = model:weight(name) }).streamed)
  check.raises(function() pb.load("facts", { stream = true, fold_ln = true }) end, "stream and fold_ln", "float32 copies")
  check.raises(function() pb.load("facts", { stream = "yes" }) end, "stream")
  check.raises(function() pb.load("facts", { streem = true }) end, "did you mean 'stream'")
end)
