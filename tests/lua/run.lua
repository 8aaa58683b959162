-- Runs: values, forks, finding text, predictions.
local pb, check = require "patchbay", require "patchbay.check"

local model = pb.load "facts"
local CLEAN, CORRUPT = "The Eiffel Tower is located in the city of", "The Roman Forum is located in the city of"
local clean = model:run(CLEAN)

check.test("run: length, tokens, labels, text", function()
  check.eq({ #clean, clean.length, clean.text, clean.patches }, { 12, 12, CLEAN, 0 })
  check.eq(model:decode(clean.tokens), CLEAN)
  check.eq({ clean.labels[1], clean.labels[6], #clean.labels }, { "The", "␣Tower", 12 })
  check.eq(model:run(clean.tokens).text, CLEAN)
  check.eq(clean.model.name, "facts")
  check.ok(tostring(clean):find("12 tokens", 1, true) and tostring(clean):find(CLEAN, 1, true), tostring(clean))
end)

check.test("run: the model knows where the Eiffel Tower is", function()
  local best = clean:top(3)
  check.eq({ best[1].token, best[1].id, #best }, { " Paris", model:token " Paris", 3 })
  check.close(best[1].prob, 0.972, 0.005)
  check.ok(best[1].prob > best[2].prob and best[2].logit > best[3].logit)
  check.close(best[1].prob, pb.metric.prob(" Paris")(clean), 1e-6)
  check.eq(clean:top(1, { pos = 4 })[1].token, " Tower")
  check.raises(function() clean:top(0) end, "1 to 2048")
  check.raises(function() clean:top(1, { pos = 12 }) end, "out of range")
end)

check.test("run: sites by full name, by short name and layer, by table", function()
  local z = clean["blocks.2.attn.hook_z"]
  check.eq(z.shape, { 12, 4, 32 })
  for _, other in ipairs { clean:value("z", 2), clean:value("hook_z", 2), clean:value("attn.hook_z", -4), clean:value("blocks.2.attn.hook_z"),
                           clean:value { site = "z", layer = 2 }, clean[{ site = "z", layer = 2 }] } do
    check.eq((other - z):abs():max(), 0.0)
  end
  local some = clean[{ site = "z", layer = 2, pos = { 3, -1 }, head = 1, neuron = { 0, 5, 7 } }]
  check.eq(some.shape, { 2, 1, 3 })
  check.eq({ some:get(0, 0, 1), some:get(1, 0, 2) }, { z:get(3, 1, 5), z:get(11, 1, 7) })
  local pattern = clean:value("pattern", 4)
  check.eq(clean[{ site = "pattern", layer = 4, head = 2, dest = { 5, 6 }, src = 1 }]:tolist(), { pattern:get(2, 5, 1), pattern:get(2, 6, 1) })
  check.eq(clean.logits.shape, { 12, 2048 })
  check.close(pattern:sum(2), pb.ones(4, 12), 1e-5)
  check.eq(clean:value("attn_scores", 4):get(0, 2, 3), -math.huge)
end)

check.test("run: what was read can be changed without changing the run", function()
  local before = clean:value("resid_pre", 1)
  clean:value("resid_pre", 1):fill_(0)
  clean[{ site = "resid_pre", layer = 1 }]:fill_(0)
  clean["blocks.1.hook_resid_pre"]:fill_(0)
  check.eq((clean:value("resid_pre", 1) - before):abs():max(), 0.0)
  check.eq((clean[{ site = "resid_pre", layer = 1 }] - before):abs():max(), 0.0)
end)

check.test("run: unknown sites and coordinates", function()
  check.raises(function() return clean.resid end, "'resid'", "did you mean 'resid_pre'")
  check.raises(function() clean:sweeep {} end, "did you mean 'sweep'")
  check.raises(function() return clean["blocks.9.attn.hook_z"] end, "layer 9", "0 to 5")
  check.raises(function() return clean:value("z") end, "every layer")
  check.raises(function() return clean:value("z", 6) end, "layer 6", "0 to 5")
  check.raises(function() return clean:value("blocks.2.attn.hook_z", 3) end)
  check.raises(function() return clean[{ site = "z", layer = 1, heads = 2 }] end, "did you mean 'head'")
  check.raises(function() return clean[{ site = "z", layer = 1, head = 4 }] end, "head 4")
  check.raises(function() return clean[{ site = "z", layer = 1, dest = 4 }] end, "no dest axis")
  check.raises(function() return clean[{ layer = 1 }] end, "site")
  check.raises(function() return clean[3] end, "indexed by a site's name")
end)

check.test("fork: same length, and both prompts shown where it is not", function()
  local corrupt = clean:fork(CORRUPT)
  check.eq({ corrupt.text, #corrupt }, { CORRUPT, 12 })
  check.eq(corrupt:top(1)[1].token, " Rome")
  check.raises(function() clean:fork "The Colosseum is located in the city of" end, "12 and 11 tokens", "␣E        ␣Col   <- the first difference",
               "length = \"any\"")
  local other = clean:fork("The Colosseum is located in the city of", { length = "any" })
  check.eq(#other, 11)
  check.eq((other.logits - model:run("The Colosseum is located in the city of").logits):abs():max(), 0.0)
  check.raises(function() clean:fork(CORRUPT, { length = "some" }) end, "'same' or 'any'")
  local begun = model:run(CLEAN, { bos = true })
  check.eq(#begun:fork(CORRUPT), 13, "a fork begins as its run does")
  check.eq((begun:fork(CORRUPT).logits - model:run(CORRUPT, { bos = true }).logits):abs():max(), 0.0)
end)

check.test("find: the positions of a piece of the prompt", function()
  check.eq(clean:find "Eiffel Tower", { 1, 2, 3, 4, 5 })
  check.eq(clean:find " of", { 11 })
  check.eq(clean:find "f", { 2 }, "the first, inside a token")
  local john = model:run "When Mary and John went to the store, John gave a drink to"
  check.eq(john:find "John", { 4 })
  check.eq(john:find("John", { which = "last" }), { 10 })
  check.eq(john:find("John", { which = "all" }), { 4, 10 })
  check.eq(model:run({ 1, 1, 1 }):find(model:decode { 1 }, { which = "all" }), { 0, 1, 2 })
  check.eq(model:run(CLEAN, { bos = true }):find "Eiffel", { 2, 3, 4, 5 }, "the beginning token is no text")
  local text = check.raises(function() clean:find "Colosseum" end, "'Colosseum' is not in the prompt", "5 '␣Tower'")
  check.raises(function() clean:find "" end, "empty")
  check.raises(function() clean:find("of", { which = "second" }) end, "'first', 'last' or 'all'")
end)

check.test("run: closed runs and other objects are refused", function()
  local run = model:run { 1, 2 }
  run:close()
  check.raises(function() return run.tokens end, "closed")
  check.raises(function() clean.fork(model, "x") end, "expected a run")
  check.raises(function() pb.metric.prob(" Paris")(run) end, "closed")
  check.raises(function() pb.metric.prob(" Paris")(model) end, "expected a run")
end)

check.test("many runs are collected", function()
  collectgarbage()
  for _ = 1, 300 do model:run(CLEAN):fork(CORRUPT) end
  check.ok(true)
end)
