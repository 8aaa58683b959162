-- Models and tokenizers as recipes see them.
local pb, check = require "patchbay", require "patchbay.check"

local model = pb.load "facts"

check.test("model fields describe the built-in model", function()
  check.eq({ model.name, model.family, model.layers, model.heads, model.kv_heads, model.d_model, model.d_head, model.d_mlp, model.vocab },
           { "facts", "gpt2", 6, 4, 4, 128, 32, 512, 2048 })
  check.eq(model.max_positions, 64)
  check.eq(model.parameters, 1460224)
  check.ok(model.weight_bytes >= 2 * model.parameters and model.folder:find "facts$", model.folder)
end)

check.test("model: an unknown name, option or field is refused with the nearest", function()
  check.raises(function() pb.load "fact" end, "no model 'fact'")
  check.raises(function() pb.load("facts", { fold_lm = true }) end, "fold_lm", "did you mean 'fold_ln'")
  check.raises(function() return model.layer end, "did you mean 'layers'")
  check.raises(function() model.layers = 3 end, "cannot be assigned")
  check.raises(function() model.run("The") end, "expected a model", "colon")
end)

check.test("model: text to tokens and back", function()
  local text = "The Eiffel Tower is located in the city of"
  local ids = model:encode(text)
  check.eq(model:decode(ids), text)
  check.eq(model:encode(text, { bos = true })[1], 2047)
  check.eq(#model:encode(text, { bos = true }), #ids + 1)
  check.eq(model:decode(model:encode(text, { bos = true }), { skip_special = true }), text)
  check.eq(model:label(model:token " Paris"), "␣Paris")
  local tokens = model:tokens "Eiffel Tower"
  check.eq({ #tokens, tokens[5].label, tokens[5].id }, { 5, "␣Tower", model:token " Tower" })
  check.ok(tostring(tokens):find("␣Tower", 1, true))
  check.eq(model.tokenizer:encode(text), ids)
  check.eq({ model.tokenizer.size, model.tokenizer.eos }, { 2048, 2047 })
end)

check.test("model: a text that is not one token is refused with its pieces", function()
  check.raises(function() model:token "Eiffel Tower" end, "5 tokens", "' Tower'")
  check.raises(function() model:token "" end)
  check.raises(function() model:token(2048) end, "0 to 2047")
end)

check.test("model: prompts that cannot be run", function()
  check.raises(function() model:run "" end, "empty")
  check.raises(function() model:run {} end, "empty")
  check.raises(function() model:run { 5000 } end, "5000", "0 to 2047")
  check.raises(function() model:run { 1, -1 } end, "-1")
  check.raises(function() model:run { 1.5 } end, "integer")
  check.raises(function() model:run(true) end, "text or a list of token ids")
  check.raises(function() model:run("The", { boss = true }) end, "did you mean 'bos'")
  local long = {}
  for i = 1, 65 do long[i] = 1 end
  check.raises(function() model:run(long) end, "65 tokens", "64 positions")
end)

check.test("model: sites are listed in order and described", function()
  local sites = model:sites()
  check.eq({ sites[1], sites[2], sites[3], sites[#sites] }, { "hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre", "logits" })
  local run = model:run { 1, 2, 3 }
  for _, name in ipairs(sites) do
    local site, shape = model:site(name), run[name].shape
    local want = {}
    for i, axis in ipairs(site.axes) do
      want[i] = axis == "head" and site.heads or axis == "neuron" and site.width or 3
    end
    check.eq(shape, want, name)
  end
  check.eq(model:site("z").layers, { 0, 1, 2, 3, 4, 5 })
  check.eq({ model:site("blocks.3.attn.hook_z").layer, model:site("logits").layers }, { 3, nil })
  check.raises(function() model:site "resid_pree" end, "did you mean 'resid_pre'")
end)

check.test("model: weights by both names are the same numbers", function()
  local wte, embed = model:weight "transformer.wte.weight", model:parameter "embed.W_E"
  check.eq({ wte.shape, embed.shape }, { { 2048, 128 }, { 2048, 128 } })
  check.eq((wte - embed):abs():max(), 0.0)
  local attn, q = model:weight "transformer.h.2.attn.c_attn.weight", model:parameter "blocks.2.attn.W_Q"
  check.eq(q.shape, { 4, 128, 32 })
  for head = 0, 3 do
    check.eq((q:select(0, head) - attn:narrow(1, head * 32, 32)):abs():max(), 0.0)
  end
  check.eq(#model:weights(), 76)
  check.raises(function() model:weight "foo" end, "no weight 'foo'")
  check.raises(function() model:parameter "blocks.0.attn.W_X" end, "W_X")
end)

check.test("model: the hash is 64 digits and the same every time", function()
  local hash = model:hash()
  check.ok(hash:match "^%x+$" and #hash == 64, hash)
  check.eq(pb.load("facts"):hash(), hash)
end)

check.test("weight processing changes sites, not predictions", function()
  local prompt = "The Eiffel Tower is located in the city of"
  local folded = pb.load("facts", { fold_ln = true, center_writing_weights = true, center_unembed = true, fold_value_biases = true })
  local a, b = model:run(prompt), folded:run(prompt)
  check.ok((a.logits:log_softmax(1) - b.logits:log_softmax(1)):abs():max() < 1e-3, "log probabilities moved")
  check.ok((a:value("resid_post", 2) - b:value("resid_post", 2)):abs():max() > 1e-2, "the stream was not centred")
end)

check.test("generate: greedy text, new ids, stop, and patches in place", function()
  local prompt = "The Colosseum is located in the city of"
  local text, ids = model:generate { prompt, tokens = 4, ids = true }
  check.eq({ text:sub(1, #prompt + 5), #ids }, { prompt .. " Rome", 4 })
  check.eq(ids[1], model:token " Rome")
  local _, stopped = model:generate { prompt, tokens = 4, stop = " Rome", ids = true }
  check.eq(stopped, { ids[1] })
  check.eq(model:generate { model:run(prompt), tokens = 4 }, text)
  check.eq(model:generate { model:encode(prompt), tokens = 4 }, text)

  -- one token at a time by hand: the same tokens, with and without a patch
  for _, patches in ipairs { {}, { { site = "resid_post", layer = 3, scale = 1.5 } }, { { site = "z", layer = 2, head = 3, zero = true } } } do
    local _, got = model:generate { prompt, tokens = 5, patches = patches, ids = true }
    local tokens = model:encode(prompt)
    for i = 1, 5 do
      local run = model:run(tokens):patched(patches)
      tokens[#tokens + 1] = run.logits:select(0, -1):argmax()
      check.eq(got[i], tokens[#tokens], "token " .. i)
    end
  end
end)

check.test("generate: sampling depends on the seed alone", function()
  local function sample(seed) return model:generate { "The", tokens = 12, temperature = 1, seed = seed } end
  check.eq(sample(1), sample(1))
  local differ = false
  for seed = 2, 6 do differ = differ or sample(seed) ~= sample(1) end
  check.ok(differ, "six seeds gave one text")
  check.eq(model:generate { "The", tokens = 12, temperature = 0.7, top_k = 1, seed = 5 }, model:generate { "The", tokens = 12 })
  check.raises(function() model:generate { "The", token = 3 } end, "did you mean 'tokens'")
  check.raises(function() model:generate { tokens = 3 } end, "prompt")
  check.raises(function() model:generate { "The", temperature = -1 } end, "temperature")
  check.raises(function() model:generate { "The", top_k = 5 } end, "temperature 0")
end)

check.test("a model without tokenizer takes ids, and says what is missing for text", function()
  local bare = pb.load((check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques/models/gpt2")
  check.eq(bare.has_tokenizer, false)
  check.raises(function() bare:run "text" end, "no tokenizer.json", "ids")
  check.raises(function() return bare.tokenizer end, "no tokenizer.json")
  local run = bare:run { 5, 6 }
  check.eq({ run.labels, run.tokens }, { { "5", "6" }, { 5, 6 } })
  check.eq(run.text, nil)
  check.eq(#bare:generate { { 5, 6 }, tokens = 3 }, 5)
end)

check.test("runs fail cleanly when memory does", function()
  -- the collector has run first: else the host would collect, try again, and succeed
  local function exhaust(fn) check.ok(check.exhaust(function() collectgarbage() fn() end) > 3) end
  exhaust(function() model:run("The Eiffel Tower"):close() end)
  exhaust(function() for _, r in ipairs(model:runs { "The", { 1, 2 } }) do r:close() end end)
end)
