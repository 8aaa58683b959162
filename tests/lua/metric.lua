-- Metrics against their formulas, computed here from the logits.
local pb, check = require "patchbay", require "patchbay.check"

local model = pb.load "facts"
local run = model:run "The Eiffel Tower is located in the city of"
local other = run:fork "The Roman Forum is located in the city of"
local logits = run.logits
local paris, rome, berlin = model:token " Paris", model:token " Rome", model:token " Berlin"

local function log_probs(r, pos) return r.logits:select(0, pos):log_softmax(0) end

check.test("metrics equal their formulas at the last position", function()
  local last, lp = logits:select(0, -1), log_probs(run, -1)
  check.close(pb.metric.logit(" Paris")(run), last:get(paris), 1e-5)
  check.close(pb.metric.logit { " Paris", " Rome" } (run), (last:get(paris) + last:get(rome)) / 2, 1e-5)
  check.close(pb.metric.logit_diff(" Paris", { " Rome", " Berlin" })(run), last:get(paris) - (last:get(rome) + last:get(berlin)) / 2, 1e-5)
  check.close(pb.metric.prob(" Paris")(run), math.exp(lp:get(paris)), 1e-6)
  check.close(pb.metric.prob { " Paris", " Rome" } (run), math.exp(lp:get(paris)) + math.exp(lp:get(rome)), 1e-6)
  check.close(pb.metric.log_prob(" Rome")(run), lp:get(rome), 1e-4)
  check.close(pb.metric.log_prob { " Rome", " Berlin" } (run), math.log(math.exp(lp:get(rome)) + math.exp(lp:get(berlin))), 1e-4)
  check.close(pb.metric.prob_diff(" Paris", " Rome")(run), math.exp(lp:get(paris)) - math.exp(lp:get(rome)), 1e-6)
  check.eq(pb.metric.rank(" Paris")(run), 0.0)
  check.eq(pb.metric.rank(" Rome")(run), last:gt(last:get(rome)):sum())
end)

check.test("logits: a weighted sum, of which the difference is one case", function()
  local weights = { [" Paris"] = 1, [" Rome"] = -1 }
  check.eq(pb.metric.logits(weights)(run), pb.metric.logit_diff(" Paris", " Rome")(run))
  check.eq(pb.metric.logits { [paris] = 1, [rome] = -1 }(run), pb.metric.logit_diff(paris, rome)(run))
  check.close(pb.metric.logits { [" Paris"] = 0.5, [rome] = 0.25, [" Berlin"] = -3 }(run),
              0.5 * logits:get(11, paris) + 0.25 * logits:get(11, rome) - 3 * logits:get(11, berlin), 1e-4)
  check.close(pb.metric.logits(weights, { pos = { 2, -1 } })(run), pb.metric.logit_diff(" Paris", " Rome", { pos = { 2, -1 } })(run), 1e-6)
  local all, sum = {}, 0 -- more tokens than are made one by one
  for id = 0, 199 do
    all[id] = (id % 7) - 3
    sum = sum + all[id] * logits:get(11, id)
  end
  check.close(pb.metric.logits(all)(run), sum, 1e-3)
  local patch = { { { site = "z", layer = 1, zero = true } }, { { site = "logits", pos = -1, neuron = paris, value = 7 } } }
  check.eq(run:measure(patch, pb.metric.logits(weights)), run:measure(patch, pb.metric.logit_diff(" Paris", " Rome")))
end)

check.test("logits: the gradient is the weighted one", function()
  local diff, sum = run:grad(pb.metric.logit_diff(" Paris", " Rome"), { "resid_pre", "logits" }), run:grad(pb.metric.logits { [" Paris"] = 1, [" Rome"] = -1 }, { "resid_pre", "logits" })
  check.eq(sum["blocks.0.hook_resid_pre"], diff["blocks.0.hook_resid_pre"])
  check.eq(sum.measured, diff.measured)
  local scaled = run:grad(pb.metric.logits({ [" Paris"] = 0.5, [" Rome"] = 2 }, { pos = { 3, -1 } }), { "logits" }).logits
  check.eq({ scaled:get(3, paris), scaled:get(11, rome), scaled:get(4, paris) }, { 0.25, 1.0, 0.0 })
  check.close(scaled:sum(), 2.5, 1e-6)
end)

check.test("logits: what it says and refuses", function()
  local metric = pb.metric.logits({ [" Rome"] = -0.5, [" Paris"] = 1, [7] = 2, [3] = 1e-3 }, { pos = 3 })
  check.eq({ metric.kind, metric.answers, metric.weights, metric.pos }, { "logits", { 3, 7, " Paris", " Rome" }, { 1e-3, 2, 1, -0.5 }, 3 })
  check.eq(tostring(metric), "logits({[3] = 0.001, [7] = 2, [' Paris'] = 1, [' Rome'] = -0.5})")
  check.raises(function() pb.metric.logits {} end, "empty")
  check.raises(function() pb.metric.logits() end, "table of tokens")
  check.raises(function() pb.metric.logits { " Paris" } end, "numbers by token", "' Paris'")
  check.raises(function() pb.metric.logits { [" Paris"] = 1 / 0 } end, "finite", "inf")
  check.raises(function() pb.metric.logits { [" Paris"] = 0 / 0 } end, "finite", "nan")
  check.raises(function() pb.metric.logits { [true] = 1 } end, "by token")
  check.raises(function() pb.metric.logits { [1.5] = 1 } end, "by token")
  check.raises(function() pb.metric.logits({ [" Paris"] = 1 }, { at = 1 }) end, "at")
  check.raises(function() local _ = pb.metric.logits { [" Parisian"] = 1 } (run) end, "2 tokens")
  check.raises(function() local _ = pb.metric.logits { [2048] = 1 } (run) end, "2048")
  check.raises(function() local _ = pb.metric.logits { [paris] = 1, [" Paris"] = 2 } (run) end, "two weights")
end)

check.test("nll is of the prompt's own tokens, kl of the whole prediction", function()
  local tokens, sum = run.tokens, 0
  for p = 0, #run - 2 do sum = sum - log_probs(run, p):get(tokens[p + 2]) end
  check.close(pb.metric.nll()(run), sum / (#run - 1), 1e-5)
  check.close(pb.metric.nll { pos = 3 }(run), -log_probs(run, 3):get(tokens[5]), 1e-5)
  local p, q = log_probs(run, -1), log_probs(other, -1)
  check.close(pb.metric.kl(run)(other), (p:exp() * (p - q)):sum(), 1e-4)
  check.close(pb.metric.kl(run)(run), 0, 1e-6)
  check.raises(function() pb.metric.nll { pos = -1 }(run) end)
end)

check.test("positions: one, several (their mean), all, from the end", function()
  check.close(pb.metric.logit(" Paris", { pos = 3 })(run), logits:get(3, paris), 1e-5)
  check.close(pb.metric.logit(" Paris", { pos = -2 })(run), logits:get(10, paris), 1e-5)
  check.close(pb.metric.logit(" Paris", { pos = { 1, 2, 11 } })(run), (logits:get(1, paris) + logits:get(2, paris) + logits:get(11, paris)) / 3, 1e-5)
  check.close(pb.metric.logit(" Paris", { pos = "all" })(run), logits:select(1, paris):mean(), 1e-5)
  check.raises(function() pb.metric.logit(" Paris", { pos = 12 })(run) end, "12")
  check.raises(function() pb.metric.logit(" Paris", { pos = "end" }) end, "pos")
  check.raises(function() pb.metric.logit(" Paris", { poss = 1 }) end, "did you mean 'pos'")
end)

check.test("a metric of your own sees the logits at its positions and the run", function()
  local seen
  local metric = pb.metric.fn(function(l, r)
    seen = { l.shape, r.text, #r }
    return l:get(0, paris) - l:get(1, rome)
  end, { pos = { 2, -1 } })
  check.close(metric(run), logits:get(2, paris) - logits:get(11, rome), 1e-5)
  check.eq(seen, { { 2, 2048 }, run.text, 12 })
  local calls = 0
  local counted = pb.metric.fn(function(l) calls = calls + 1; return l:select(0, 0):max() end)
  local variants = { {}, { { site = "resid_post", layer = 5, scale = 2 } }, { { site = "z", layer = 1, zero = true } } }
  local values = run:measure(variants, counted)
  for i, variant in ipairs(variants) do check.close(values:get(i - 1), run:patched(variant).logits:select(0, -1):max(), 1e-4) end
  check.eq(pb.metric.fn(function(l) return l:select(0, 0):narrow(0, 3, 1) end)(run), logits:get(11, 3), "a tensor of one element")
end)

check.test("NaN of a metric's function is an error that names the variant", function()
  local nan = pb.metric.fn(function() return 0 / 0 end)
  check.raises(function() return nan(run) end, "function gave NaN", "infinity is one")
  local variants = { {}, { { site = "z", layer = 1, zero = true } }, {} }
  local calls = 0
  local second = pb.metric.fn(function() calls = calls + 1 return calls == 2 and 0 / 0 or 1 end)
  check.raises(function() run:measure(variants, second) end, "function gave NaN", "of variant 2")
  calls = -2 -- the first is cell 1
  check.raises(function() run:sweep { site = "z", over = "layer", zero = true, metric = second } end, "of variant 4")
  check.eq(pb.metric.fn(function() return -math.huge end)(run), -math.huge)
end)

check.test("errors in a metric's function carry the recipe's line", function()
  check.raises(function() pb.metric.fn(function() error "boo" end)(run) end, "metric.lua:", "boo")
  check.raises(function() pb.metric.fn(function() return {} end)(run) end, "must return a number", "a table")
  local object = setmetatable({}, { __tostring = function() return "an object" end })
  local ok, err = pcall(pb.metric.fn(function() error(object) end), run)
  check.ok(not ok and err == object, "the error's own value comes back")
  check.raises(function() pb.metric.fn(3) end, "function(logits, run)")
end)

check.test("answers: texts, ids, lists; else an error", function()
  check.eq(pb.metric.prob(paris)(run), pb.metric.prob(" Paris")(run))
  check.raises(function() pb.metric.prob(" Parisian")(run) end, "2 tokens", "' Paris'", "'ian'")
  check.raises(function() pb.metric.prob(2048)(run) end, "2048")
  check.raises(function() pb.metric.prob {} end, "empty")
  check.raises(function() pb.metric.prob() end, "answers")
  check.raises(function() pb.metric.prob { true } end, "token")
  check.raises(function() pb.metric.logit_diff(" Paris") end, "wrong")
  check.raises(function() pb.metric.rank { " Paris", " Rome" } end, "one token")
  check.raises(function() pb.metric.kl(model) end, "run")
  check.raises(function() run:measure({ {} }, "logit_diff") end, "pairs", "pb.metric.logit_diff")
  check.raises(function() run:measure({ {} }, 3) end, "expected a metric")
  check.raises(function() return pb.metric.props end, "props")
end)

check.test("metrics say what they are, and one serves several models", function()
  local metric = pb.metric.logit_diff(" Paris", { " Rome", 7 }, { pos = 3 })
  check.eq({ metric.kind, metric.answers, metric.wrong, metric.pos }, { "logit_diff", { " Paris" }, { " Rome", 7 }, 3 })
  check.eq(tostring(metric), "logit_diff(' Paris', {' Rome', 7})")
  check.eq(tostring(pb.metric.nll()), "nll")
  local list = metric.answers
  list[1] = " Berlin"
  check.eq(metric.answers, { " Paris" })
  local again = pb.load "facts"
  check.eq(pb.metric.prob(" Paris")(again:run(run.tokens)), pb.metric.prob(" Paris")(run))
  check.raises(function() pb.metric.kl(run)(again:run(run.tokens)) end, "another model")
end)

check.test("NaN in the unembedding is said, whatever asks for the logits", function()
  local wte = model:weight("transformer.wte.weight"):clone()
  wte:set(0, 5, 0 / 0) -- the row of a token that the prompt does not have: the streams stay finite
  local broken = model:with { ["transformer.wte.weight"] = wte }
  local bad = broken:run(run.tokens)
  for _, metric in ipairs { pb.metric.prob " Paris", pb.metric.log_prob " Paris", pb.metric.nll(), pb.metric.kl(bad) } do
    check.raises(function() local _ = metric(bad) end, "not a number", "tensor 'transformer.wte.weight'", "NaN at [0, 5]")
  end
  check.raises(function() local _ = bad:top(1) end, "NaN", "token 0")
end)
