-- Causal tracing against the arrays of ROME's own code, and against what must hold whatever the numbers are.
local pb, check = require "patchbay", require "patchbay.check"
local trace, noise, data = require "patchbay.trace", require "patchbay.noise", require "patchbay.data"

local golden = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques"

local function largest_difference(got, wanted)
  check.eq(got.shape, wanted.shape)
  local worst, flat = 0, wanted:tolist()
  for i, x in ipairs(got:tolist()) do
    local gap = math.abs(x - flat[i])
    if not (gap <= worst) then worst = gap end
  end
  return worst
end

-- ---- every array of the peer --------------------------------------------------------------------------------------------------

local function test_case(label, folder, model_name)
  local case, expected = pb.read(folder .. "/case.json"), pb.read(folder .. "/expected.safetensors")
  local model, inputs = pb.load(model_name), case.inputs
  local subject = {}
  for pos = inputs.subject_range[1], inputs.subject_range[2] - 1 do subject[#subject + 1] = pos end
  local fact = { prompt = inputs.prompt, subject = subject, answer = inputs.answer }
  local looked_at = { ["in.noise"] = true }

  local function compare(name, got)
    looked_at[name] = true
    local about = case.arrays[name]
    local gap = type(got) == "number" and math.abs(got - expected[name]:item()) or largest_difference(got, expected[name])
    check.ok(gap <= about.tolerance, ("%s differs by %.3g, tolerance %.3g"):format(name, gap, about.tolerance))
  end
  local function test(name, fn) check.test(("golden rome_trace %s: %s"):format(label, name), fn) end
  local function token_layer(grid) return grid.values:transpose(0, 1):contiguous() end

  test("sigma", function() compare("noise.sigma", noise.sigma(model, inputs.subjects)) end)
  for _, how in ipairs { "add", "replace" } do
    for _, window in ipairs { 10, 3, 2 } do
      test(("%s, window %d"):format(how, window), function()
        local result = trace.rome(model, fact, { noise = expected["in.noise"], samples = inputs.samples, replace = how == "replace", window = window, wide = true })
        compare("high_score", result.high)
        compare("low_score." .. how, result.low)
        compare(how .. ".block", token_layer(result.block))
        compare(("%s.mlp.w%d"):format(how, window), token_layer(result.mlp))
        compare(("%s.attn.w%d"):format(how, window), token_layer(result.attn))
        check.eq({ result.block.base, result.block.target }, { result.low, result.high })
      end)
    end
  end
  for _, kind in ipairs { "mlp", "attn" } do
    test("severed " .. kind, function()
      local result = trace.rome(model, fact, { kinds = { "block" }, noise = expected["in.noise"], samples = inputs.samples, sever = kind })
      compare("severed_" .. kind, token_layer(result.block))
    end)
  end
  test("several states together", function()
    local places = {}
    for i, state in ipairs(inputs.several) do places[i] = { pos = state[1], layer = state[2] } end
    local values, low, high = trace.states(model, fact, { { restore = places }, { restore = { { pos = "all", layer = 0 } } } },
                                           { noise = expected["in.noise"], samples = inputs.samples })
    compare("several", values:get(0))
    check.eq(values:get(1), high, "all of layer 0 restored")
    check.ok(low < high)
    -- everything that is written after the embedding held at all positions: whatever is restored at the embedding goes on by the skip path alone
    local held = { { site = { "attn_out", "mlp_out" }, layer = "all" } }
    local own = trace.states(model, fact, { { restore = {}, hold = held }, { restore = { { site = "hook_embed", pos = 0 } }, hold = held } },
                             { noise = expected["in.noise"], samples = inputs.samples })
    check.eq({ own:get(0), own:get(1) }, { low, low }, "holding everything at its own value changes nothing")
    local moved = trace.states(model, fact, { { restore = { { site = "hook_embed", pos = "all" } }, hold = held } }, { noise = expected["in.noise"], samples = inputs.samples })
    local clean, sum = model:run(inputs.prompt), 0
    for j = 0, inputs.samples - 1 do
      local corrupted = clean:patched { { site = "hook_embed", pos = subject, add = expected["in.noise"]:select(0, j) } }
      local patches = { { site = "hook_embed", from = clean } }
      for layer = 0, model.layers - 1 do
        for _, site in ipairs { "attn_out", "mlp_out" } do patches[#patches + 1] = { site = site, layer = layer, value = corrupted:value(site, layer) } end
      end
      sum = sum + pb.metric.prob(inputs.answer)(corrupted:patched(patches))
    end
    check.close(moved:get(0), sum / inputs.samples, 1e-6, "all outputs held while the embedding is restored")
  end)
  test("every array was looked at", function()
    for name in pairs(case.arrays) do check.ok(looked_at[name], name) end
  end)
end

test_case("gpt2", golden .. "/rome_trace/gpt2", golden .. "/models/gpt2")
test_case("facts", golden .. "/facts/rome_trace", "facts")

-- ---- what must hold ------------------------------------------------------------------------------------------------------------

local model = pb.load "facts"
local FACT = { prompt = "The Eiffel Tower is located in the city of", subject = "Eiffel Tower", answer = " Paris" }
local quick = { noise = 0.34, samples = 3, window = 3, seed = 1 }

local function with(changes)
  local o = {}
  for key, value in pairs(quick) do o[key] = value end
  for key, value in pairs(changes) do o[key] = value end
  return o
end

check.test("trace: a cell is the mean over samples of patched runs, one by one", function()
  local result = trace.rome(model, FACT, quick)
  local clean, metric, sum = model:run(FACT.prompt), pb.metric.prob " Paris", 0
  local subject = clean:find "Eiffel Tower"
  check.eq(result.positions, subject)
  for draw = 0, 2 do
    local corrupted = clean:patched { { site = "hook_embed", pos = subject, add = pb.randn { #subject, 128, seed = 1, draw = draw } * 0.34 } }
    sum = sum + metric(corrupted:patched { { site = "mlp_out", layer = { 1, 2, 3 }, pos = subject[#subject], from = clean } })
  end
  check.close(result.mlp:get { layer = 2, pos = subject[#subject] }, sum / 3, 1e-6)
  check.eq(result.high, metric(clean))
end)

check.test("trace: before the subject nothing is corrupted, so nothing can be restored", function()
  local result = trace.rome(model, FACT, quick)
  for layer = 0, model.layers - 1 do
    for _, kind in ipairs { "block", "mlp", "attn" } do check.eq(result[kind]:get { layer = layer, pos = 0 }, result.low, kind) end
  end
  check.eq(result.block:get { layer = 5, pos = -1 }, result.high, "the last state of the last position is the clean run's")
end)

check.test("trace: severing both paths leaves what a state passes on by itself", function()
  local plain = trace.rome(model, FACT, with { kinds = { "block" } })
  local severed = trace.rome(model, FACT, with { kinds = { "block" }, sever = "mlp" })
  check.eq(severed.block:get { layer = 5, pos = -1 }, plain.block:get { layer = 5, pos = -1 }, "above the last layer there is nothing to hold")
  local last = plain.positions[#plain.positions]
  check.ok(severed.block:get { layer = 0, pos = last } < plain.block:get { layer = 0, pos = last }, "the subject's MLPs carry the fact")
end)

check.test("trace: corruption by another prompt is activation patching", function()
  local result = trace.rome(model, FACT, { kinds = { "block" }, corrupt = "The Roman Forum is located in the city of" })
  local clean = model:run(FACT.prompt)
  local corrupt = clean:fork "The Roman Forum is located in the city of"
  local grid = corrupt:sweep { site = "resid_post", over = { "layer", "pos" }, from = clean, metric = pb.metric.prob " Paris" }
  check.eq(result.block.values, grid.values)
  check.eq({ result.low, result.high }, { grid.base, grid.target })
end)

check.test("trace: a set of pairs is averaged over its own corrupted prompts", function()
  local set = pb.pairs(model, {
    { clean = FACT.prompt, corrupt = "The Roman Forum is located in the city of", answer = " Paris", wrong = " Rome", positions = { subject = { 1, 2, 3, 4, 5 } } },
    { clean = "The capital of Germany is", corrupt = "The capital of Japan is", answer = " Berlin", wrong = " Tokyo", positions = { subject = 3 } } })
  local all = trace.average(model, set, { kinds = { "block" } })
  local sum = 0
  for i = 1, 2 do sum = sum + pb.metric.prob(set[i].answer)(set[i].clean) - pb.metric.prob(set[i].answer)(set[i].corrupt) end
  check.close(all.ate, sum / 2, 1e-6)
  check.eq(all.counts, { 1.0, 1.0, 2.0, 1.0, 1.0, 2.0 })
  local one = trace.rome(model, { prompt = FACT.prompt, subject = "Eiffel Tower" }, { kinds = { "block" }, corrupt = set[1].corrupt })
  local last = one.positions[#one.positions]
  local other = set[2].corrupt:patched { { site = "resid_post", layer = 3, pos = 3, from = set[2].clean } }
  local wanted = (one.block:get { layer = 3, pos = last } - one.low + pb.metric.prob(" Berlin")(other) - pb.metric.prob(" Berlin")(set[2].corrupt)) / 2
  check.close(all.block.values:get(3, 2), wanted, 1e-6)
end)

check.test("trace: without a list of subjects the fact's own sets the scale", function()
  local result = trace.rome(model, FACT, { samples = 1, kinds = { "block" } })
  local clean, ids = model:run(FACT.prompt), {}
  for i, pos in ipairs(clean:find "Eiffel Tower") do ids[i] = clean.tokens[pos + 1] end
  check.close(result.scale, 3 * noise.sigma(model, { ids }), 1e-6)
end)

check.test("trace: every kind of noise has the scale it names", function()
  local subjects = {}
  for i = 1, 250 do subjects[i] = { (i * 37) % 2000, (i * 91) % 2000 } end
  local function give() return subjects end
  local sigma = noise.sigma(model, subjects)
  local function spread(level, samples)
    local sample, all = noise.sampler(model, level, give, 5), {}
    for j = 1, samples or 200 do all[j] = sample(3, j - 1) end
    return pb.concat(all)
  end
  check.close(spread("s3"):var() ^ 0.5, 3 * sigma, 0.02 * sigma * 3, "s3")
  check.close(spread("s"):var() ^ 0.5, sigma, 0.02 * sigma, "s")
  check.close(spread(0.25):var() ^ 0.5, 0.25, 0.01, "plain")
  local uniform = spread "u0.5"
  check.ok(uniform:max() <= 0.5 and uniform:min() >= -0.5 and uniform:max() > 0.49 and uniform:min() < -0.49, "u0.5")
  -- The multivariate kinds have the embeddings' own mean and covariance: compared by variances along each dimension.
  local rows = {}
  for i, run in ipairs(model:runs(subjects)) do rows[i] = run["hook_embed"] end
  rows = pb.concat(rows)
  local wanted = rows:var(0)
  for _, level in ipairs { "m", "t8" } do
    local got = spread(level, 600)
    check.close((got:var(0) / wanted):mean(), 1, 0.08, level .. ": variance")
    check.close((got:mean(0) - rows:mean(0)):abs():mean(), 0, 0.01, level .. ": mean")
    local a, b = got - got:mean(0, true), rows - rows:mean(0, true)
    local covariance, expected = a:transpose(0, 1):matmul(a) / got.shape[1], b:transpose(0, 1):matmul(b) / rows.shape[1]
    local overlap = (covariance * expected):sum() / ((covariance:square():sum() * expected:square():sum()) ^ 0.5)
    check.ok(overlap > 0.9, ("%s: covariances agree only by %.3f"):format(level, overlap))
  end
  check.eq(spread("s3", 2), spread("s3", 2), "the same seed, the same noise")
end)

check.test("trace: classes of tokens", function()
  check.eq(trace.classes({ 1, 2, 3, 4 }, 8), { 0, 1, 2, 2, 3, 4, 5, 6 })
  check.eq(trace.classes({ 2 }, 5), { 0, 0, 3, 4, 6 })
  check.eq(trace.classes({ 0, 1 }, 3), { 1, 3, 6 })
  check.eq(trace.classes({ 1, 2 }, 3), { 0, 1, 6 })
end)

check.test("trace: the average finds both sites of the built-in model, with its README's figures", function()
  local facts = data.facts(model, "facts", { n = 20, subject_tokens = { 2, 6 }, seed = 3, quiet = true })
  local all = trace.average(model, facts, { samples = 2, window = 3, seed = 1 })
  check.close(all.scale, 3 * 0.113, 0.01)
  check.close(all.high, 0.969, 0.05)
  check.close(all.low, 0.071, 0.08)
  check.close(all.ate, all.high - all.low, 1e-5)
  local function at(kind, class) return all[kind].values:select(1, class - 1):tolist() end
  -- mean indirect effects of README.md: last subject token (class 3), last token (6); within 5 standard errors of the mean here
  local wanted = { block = { [3] = { .50, .63, .70, .74, .23, .00 }, [6] = { .01, .01, .02, .03, .77, .90 } },
                   mlp = { [3] = { .47, .54, .28, .21, .08, .01 }, [6] = { .01, .01, .01, .05, .25, .25 } },
                   attn = { [3] = { .06, .08, .06, .01, .00, .00 }, [6] = { .01, .02, .02, .72, .82, .81 } } }
  for kind, classes in pairs(wanted) do
    for class, figures in pairs(classes) do
      local se = all[kind].se:select(1, class - 1):tolist()
      for l, value in ipairs(at(kind, class)) do
        check.close(value, figures[l], 5 * se[l] + 0.02, ("%s, class %d, layer %d"):format(kind, class, l - 1))
      end
    end
  end
  for _, class in ipairs { 1, 2, 4, 5 } do check.ok(all.block.values:select(1, class - 1):max() < 0.2, "class " .. class) end
  check.eq(all.n, 20)
end)

check.test("trace: facts count once, or their tokens do; noise may be a function that is called in their order", function()
  local facts, calls = { FACT, { prompt = "The capital of Germany is", subject = "Germany", answer = " Berlin" } }, {}
  local function noise_of(tokens, draw)
    calls[#calls + 1] = { tokens, draw }
    return pb.randn { tokens, 128, seed = 9, draw = #calls } * 0.3
  end
  local by_fact = trace.average(model, facts, { noise = noise_of, samples = 2, window = 3, kinds = { "block" } })
  check.eq(calls, { { 5, 0 }, { 5, 1 }, { 1, 0 }, { 1, 1 } })
  calls = {}
  local by_token = trace.average(model, facts, { noise = noise_of, samples = 2, window = 3, kinds = { "block" }, each = "token" })
  check.eq({ by_fact.low, by_fact.block.about.noise }, { by_token.low, "a function's" })
  -- further tokens: " located in the city" of one, none of the other; last: one each
  check.eq(by_fact.block.values:select(1, 5), by_token.block.values:select(1, 5), "one token each")
  local three = { FACT, FACT, { prompt = "Everybody knows that the Eiffel Tower is located in the city of", subject = "Eiffel Tower", answer = " Paris" } }
  local one = trace.rome(model, three[3], quick)
  local pooled, each = trace.average(model, three, with { kinds = { "block" }, each = "token" }), trace.average(model, three, with { kinds = { "block" } })
  local function mean_of(fact, class)
    local result = trace.rome(model, fact, with { kinds = { "block" } })
    local sum, n = 0, 0
    for i, c in ipairs(trace.classes(result.positions, #result.clean)) do
      if c == class then sum, n = sum + result.block:get { layer = 2, pos = i - 1 } - result.low, n + 1 end
    end
    return sum, n
  end
  local a, n = mean_of(three[1], 2)
  local b, m = mean_of(three[3], 2)
  check.close(each.block.values:get(2, 1), (2 * a / n + b / m) / 3, 1e-6)
  check.close(pooled.block.values:get(2, 1), (2 * a + b) / (2 * n + m), 1e-6)
  check.eq(#one.positions, m + 2)
  check.raises(function() trace.average(model, facts, { each = "prompt" }) end, "fact, token")
end)

check.test("trace: an answer that the model does not give is an error, or counted, or traced, as asked", function()
  local wrong = { prompt = FACT.prompt, subject = FACT.subject, answer = " Rome" }
  check.raises(function() trace.rome(model, wrong, quick) end, "' Paris'", "' Rome'", "unknown")
  local traced = trace.rome(model, wrong, with { unknown = "trace", kinds = { "block" } })
  check.ok(traced.high < 0.1)
  local all = trace.average(model, { FACT, wrong }, with { unknown = "skip", kinds = { "block" } })
  check.eq({ all.n, all.skipped }, { 1, 1 })
  check.raises(function() trace.average(model, { wrong }, with { unknown = "skip" }) end, "no facts are left", "1 skipped")
end)

check.test("trace: bad input is told", function()
  check.raises(function() trace.rome(model, { prompt = FACT.prompt, subject = "Big Ben", answer = " Paris" }, quick) end, "Big Ben")
  check.raises(function() trace.rome(model, FACT, { corrupt = true }) end, "from the fact")
  check.raises(function() trace.rome(model, FACT, { noise = "x3", subjects = { "Eiffel Tower" } }) end, "x3", "Gaussian")
  check.raises(function() trace.rome(model, FACT, with { windw = 3 }) end, "did you mean 'window'")
  check.raises(function() trace.rome(model, FACT, with { kinds = { "mpl" } }) end, "did you mean 'mlp'")
  check.raises(function() trace.rome(model, FACT, with { window = 0 }) end, "window")
  check.raises(function() trace.rome(model, FACT, with { window = 7 }) end, "wider than the model", "6")
  check.raises(function() trace.rome(model, FACT, with { samples = 0 }) end, "samples")
  check.raises(function() trace.rome(model, { subject = "x" }) end, "prompt")
  check.raises(function() trace.rome(model, FACT, { corrupt = "The Colosseum is located in the city of" }) end)
end)

check.test("trace: a template and its subject make the prompt", function()
  local a = trace.rome(model, { prompt = "{} is located in the city of", subject = "The Eiffel Tower", answer = " Paris" }, with { kinds = { "block" } })
  check.eq(a.clean.text, FACT.prompt)
  check.eq(a.positions[1], 0)
end)

-- ---- enrichment and divergence ----------------------------------------------------------------------------------------------------

check.test("trace.knockout: cells are runs with scores at -inf, and the subject is read in the upper layers", function()
  local facts = data.facts(model, "facts", { n = 5, subject_tokens = { 2, 6 }, seed = 1, quiet = true })
  local grid = trace.knockout(model, facts, { window = 2 })
  local fact = facts[1]
  local patches = {}
  for _, layer in ipairs { 2, 3 } do patches[#patches + 1] = { site = "attn_scores", layer = layer, dest = -1, src = fact.positions, value = -math.huge } end
  check.close(grid.parts[1]:get { blocked = 0, layer = 3 }, pb.metric.prob(fact.answer)(fact.run:patched(patches)), 1e-6)
  patches = {}
  for k = 2, #fact.positions do
    patches[#patches + 1] = { site = "attn_scores", layer = 0, dest = fact.positions[k], src = { table.unpack(fact.positions, 1, k - 1) }, value = -math.huge }
  end
  check.close(grid.parts[1]:get { blocked = 1, layer = 0 }, pb.metric.prob(fact.answer)(fact.run:patched(patches)), 1e-6)
  check.ok(grid:get { blocked = 0, layer = 5 } < 0.5 and grid:get { blocked = 0, layer = 1 } > 0.9, "the last position reads the subject in layers 4 and 5")
  check.ok(grid:get { blocked = 1, layer = 0 } < 0.7 and grid:get { blocked = 1, layer = 5 } > 0.9, "the subject is put together in the lower layers")
end)

check.test("trace.states_say: the state after the last layer is the model's own prediction", function()
  local facts = data.facts(model, "facts", { n = 3, seed = 1, quiet = true })
  local states = trace.states_say(model, facts)
  check.close(states.prob:get { place = 1, layer = 5 }, states.prob.base, 1e-6)
  check.eq(states.rank:get { place = 1, layer = 5 }, 0.0)
  check.ok(states.rank:get { place = 1, layer = 0 } > 5)
  -- by hand: final norm and unembedding of an earlier state
  local fact = facts[1]
  local x = fact.run:value("resid_post", 2):select(0, -1)
  x = (x - x:mean()) / math.sqrt((x - x:mean()):square():mean() + 1e-5)
  x = x * model:parameter "ln_final.w" + model:parameter "ln_final.b"
  local logits = x:unsqueeze(0):matmul(model:parameter "unembed.W_U"):select(0, 0)
  check.close(states.prob.parts[1]:get { place = 1, layer = 2 }, logits:softmax(0):get(fact.answer), 1e-5)
  local says = trace.says(fact.run, -1, 3)
  check.eq({ #says, #says[1] }, { 6, 3 })
  check.eq(says[6][1], model:decode { fact.answer })
end)

check.test("trace: averages print as a table; severed paths are its blocks with MLPs or attention held", function()
  local facts = { FACT, { prompt = "The capital of Germany is", subject = "Germany", answer = " Berlin" } }
  local all = trace.average(model, facts, quick)
  local text, best = tostring(all), all.block:top(1)[1]
  check.ok(text:find("2 facts: probability of the answer 0%.9%d+ clean"), text)
  for _, name in ipairs { "block;", "mlp, window of 3;", "attn, window of 3;", "last subject token", ("%.2f ± %.2f in layer %d"):format(best.value, 1.96 * best.se, best.layer) } do
    check.ok(text:find(name, 1, true), name .. " is missing in\n" .. text)
  end
  local grid = trace.severed(model, facts, { noise = 0.34, samples = 3, window = 3, seed = 1 })
  check.eq(grid.axes, { "severed", "layer" })
  check.eq(grid.values:select(0, 0), all.block.values:select(1, 2))
  for i, severed in ipairs { "mlp", "attn" } do
    local one = trace.average(model, facts, with { kinds = { "block" }, sever = severed })
    check.eq(grid.values:select(0, i), one.block.values:select(1, 2), severed)
  end
  check.ok((grid:get { severed = 1, layer = 0 }) < (grid:get { severed = 0, layer = 0 }), "early states work through MLPs")
  check.raises(function() trace.severed(model, facts, { sever = "mlp" }) end, "in turn")
end)

check.test("trace: knock-out and what states say take facts of one's own; what is wrong with them is told", function()
  local facts = data.facts(model, { FACT }, { quiet = true })
  check.eq(trace.knockout(model, { FACT }).values, trace.knockout(model, facts).values)
  check.eq(trace.states_say(model, { FACT }).prob.values, trace.states_say(model, facts).prob.values)
  check.raises(function() trace.knockout(model, { FACT }, { window = 7 }) end, "wider than the model, which has 6")
  check.raises(function() trace.knockout(model, { FACT }, { window = "3" }) end, "number of layers")
  check.raises(function() trace.knockout(model, {}) end, "empty")
  check.raises(function() trace.states_say(model, { { subject = "x" } }) end, "fact 1")
end)

check.test("trace.divergence: against a right run, the attention that fetches the answer", function()
  local right, wrong = model:run(FACT.prompt), model:run "The Roman Forum is located in the city of"
  local found = trace.divergence(wrong, { right = right })
  check.eq({ found.answer, found.predicted, found.lost.by }, { " Paris", " Rome", "attention of layer 4" })
  check.eq({ found.culprit.site, found.culprit.layer }, { "z", 4 })
  local metric = pb.metric.logit_diff(" Paris", " Rome")
  local patched = wrong:patched { { site = "z", layer = 4, head = found.culprit.head, pos = -1, from = right } }
  check.close(found.culprit.change, metric(patched) - metric(wrong), 1e-4)
  check.eq(found[#found].rank, math.tointeger(pb.metric.rank(" Paris")(wrong)))
  check.close(found[#found].logit_diff, metric(wrong), 1e-4)
  check.ok(tostring(found):find("<- lost here", 1, true))
end)

check.test("trace.divergence: a component that was broken on purpose is found", function()
  local right = model:run(FACT.prompt)
  for _, broken in ipairs { { "MLP of layer 4", { { site = "mlp_out", layer = 4, pos = -1, value = (right:value("resid_mid", 4):select(0, -1) * -3) } } },
                            { "attention of layer 5", { { site = "attn_out", layer = 5, pos = -1, value = (right:value("resid_pre", 5):select(0, -1) * -3) } } } } do
    local wrong = right:patched(broken[2])
    local found = trace.divergence(wrong, { right = right })
    check.eq(found.lost.by, broken[1])
  end
end)

check.test("trace.divergence: with a right answer alone, prompts of other lengths, bad input", function()
  local wrong = model:run "The Roman Forum is located in the city of"
  local found = trace.divergence(wrong, { answer = " Paris" })
  check.eq({ #found, found.lost.layer }, { 2 * 6 + 1, 4 })
  check.ok(found.culprit.layer == 4 and found.culprit.site == "z")
  local longer = trace.divergence(wrong, { right = model:run "Everybody knows that the Eiffel Tower is located in the city of", answer = " Paris" })
  check.eq(#longer, 13)
  check.raises(function() trace.divergence(wrong) end, "right answer")
  check.raises(function() trace.divergence(wrong, { answer = " Rome" }) end, "answered rightly")
  check.raises(function() trace.divergence("x", { answer = " Rome" }) end, "run")
end)

-- ---- every family -------------------------------------------------------------------------------------------------------------------

local FAMILIES = { "gpt2", "gpt2-untied", "llama", "llama-bias", "opt", "opt-postnorm", "gptj", "gpt_neo", "gpt_neox", "gemma", "gemma2", "gemma3", "bloom", "mistral",
                   "mixtral", "qwen2", "qwen3", "phi", "phi3", "falcon", "falcon-alibi", "cohere", "granite", "olmo2", "stablelm", "starcoder2" }

local function open_family(name)
  for _, folder in ipairs { (check.environment "PB_TEST_DATA" or "tests") .. "/golden/models/", (check.environment "PB_SHARED" or "../shared") .. "/golden/models/" } do
    local ok, loaded = pcall(pb.load, folder .. name)
    if ok then return loaded end
  end
  check.skip("no model " .. name)
end

for _, name in ipairs(FAMILIES) do
  check.test("trace: family " .. name, function()
    local other = open_family(name)
    local ids, best = { 7, 3, 9, 4, 11 }, nil
    best = other:run(ids):top(1)[1].id
    local result = trace.rome(other, { prompt = ids, subject = { 1, 2 }, answer = best }, { samples = 2, window = 2, seed = 3 })
    local last = other.layers - 1
    check.close(result.scale, 3 * noise.sigma(other, { { 3, 9 } }), 1e-6)
    -- the scale is of the embedding as the model uses it
    local rows = other:run { 3, 9 } ["hook_embed"]
    local centre = rows:mean()
    check.close(result.scale / 3, math.sqrt((rows - centre):square():sum() / (rows.count - 1)), 1e-4 * result.scale)
    check.ok(result.low ~= result.high, "the noise changes nothing")
    check.close(result.block:get { layer = last, pos = -1 }, result.high, 1e-6, "the last state")
    for layer = 0, last do
      for _, kind in ipairs { "block", "mlp", "attn" } do check.close(result[kind]:get { layer = layer, pos = 0 }, result.low, 1e-6, kind .. " before the subject") end
    end
  end)
end
