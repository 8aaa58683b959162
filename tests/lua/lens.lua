-- Logit lens, direct logit attribution, residual decomposition, head scores and weights: every array of golden/techniques/lens, identities,
-- and what the built-in model's README says.
local pb, check = require "patchbay", require "patchbay.check"
local lens, heads = require "patchbay.lens", require "patchbay.heads"

local data = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques/"
local shared = check.environment "PB_SHARED" or "../shared"

local function golden(name, folder, model_folder)
  local ok, case = pcall(pb.read, folder .. "/case.json")
  if not ok then
    check.test("golden lens " .. name, function() check.skip("no " .. folder) end)
    return
  end
  local expected, inputs, model = pb.read(folder .. "/expected.safetensors"), case.inputs, pb.load(model_folder)
  local set = pb.pairs(model, { { clean = inputs.clean, corrupt = inputs.corrupt, answer = inputs.answer, wrong = inputs.wrong } })
  local run, compared = set[1].clean, {}
  local repeated, n = model:runs(inputs.repeated.tokens), inputs.repeated.n
  local T = #repeated[1]

  local function compare(array, got)
    check.test(("golden lens %s: %s"):format(name, array), function()
      local about, wanted = case.arrays[array], expected[array]
      if type(got) == "function" then got = got() end
      if type(got) == "number" then got = pb.tensor { got } end
      if getmetatable(got) == "grid" then got = got.values end
      check.eq(got.count, wanted.count, "number of values")
      local gap = got:contiguous():reshape(wanted.shape):max_difference(wanted)
      check.ok(gap <= about.tolerance, ("differs by %.3g, tolerance %.3g"):format(gap, about.tolerance))
    end)
    compared[array] = true
  end

  for _, side in ipairs { "clean", "corrupt" } do
    for _, metric in ipairs { "logit_diff", "prob" } do compare(("base.%s.%s"):format(side, metric), set:measure(metric, side)) end
  end
  compare("logit_lens", function()
    local all = lens.logits(run)
    return #case.arrays.logit_lens.shape == 2 and all:select(1, #run - 1) or all
  end)
  compare("accumulated_resid", function() return (lens.accumulated(run, -1)) end)
  compare("decompose_resid", function() return (lens.parts(run, -1)) end)
  compare("head_results", function() return lens.heads(run, -1) end)
  local parts = lens.attribution(run, { answer = inputs.answer, wrong = inputs.wrong, neurons = true })
  for _, part in ipairs { "heads", "mlps", "embed", "pos_embed", "attn_bias", "final_bias", "neurons" } do
    if case.arrays["dla." .. part] then compare("dla." .. part, parts[part]) end
  end
  local masks = { previous_token = heads.diagonal(T, 1), current_token = heads.diagonal(T, 0), duplicate_token = heads.diagonal(T, n),
                  induction = heads.diagonal(T, n - 1), first_token = heads.mask(T, function(_, k) return k == 0 and 1 / T or nil end) }
  local scores = heads.attention(repeated, masks)
  for score, grid in pairs(scores) do compare("heads." .. score, grid) end
  for _, kind in ipairs { "previous_token", "duplicate_token", "induction" } do
    for _, measure in ipairs { "mul", "abs" } do
      for _, exclude in ipairs { "", ".exclude" } do
        compare(("detect.%s_head.%s%s"):format(kind, measure, exclude), function()
          local grid = heads.detect(repeated[1], kind, { measure = measure, exclude_first = exclude ~= "", exclude_current = exclude ~= "" })
          if measure == "mul" then return grid end
          local rounded = {} -- the peer rounds the mean distance to three decimals
          for i, x in ipairs(grid.values:tolist()) do rounded[i] = 1 - math.floor((1 - x) * 1000 + 0.5) / 1000 end
          return pb.tensor(rounded)
        end)
      end
    end
  end
  for _, kind in ipairs { "Q", "K", "V" } do compare("composition." .. kind, function() return heads.composition(model, kind) end) end
  for _, kind in ipairs { "ov", "full_ov", "full_qk" } do compare("copying." .. kind, function() return heads.copying(model, kind) end) end
  check.test(("golden lens %s: every array was compared"):format(name), function()
    for array in pairs(expected) do check.ok(compared[array], array) end
  end)
end

golden("gpt2", data .. "lens/gpt2", data .. "models/gpt2")
golden("llama", data .. "lens/llama", data .. "models/llama")
golden("stories260K", shared .. "/golden/techniques/lens/stories260K", shared .. "/models/stories260K")

-- ---- identities -------------------------------------------------------------------------------------------------------------------------

local facts = pb.load "facts"

for _, name in ipairs { "gpt2", "llama", "facts" } do
  local model = name == "facts" and facts or pb.load(data .. "models/" .. name)
  local run = model:run { 7, 50, 5, 17, 30, 39, 46 }

  check.test(("lens identity %s: parts of the stream add up to it, at every position"):format(name), function()
    for _, pos in ipairs { 0, 3, -1 } do
      local sum = lens.parts(run, pos):sum(0)
      check.close(sum, run[{ site = "resid_post", layer = -1, pos = pos }]:select(0, 0), 2e-5)
      local stream, labels = lens.accumulated(run, pos)
      check.close(stream:select(0, stream.shape[1] - 1), sum, 2e-5)
      check.eq(labels[#labels], "final_post")
    end
  end)

  check.test(("lens identity %s: attributions add up to the logit difference, or the logit, to 1e-4"):format(name), function()
    for _, pos in ipairs { 2, -1 } do
      for _, wrong in ipairs { 3, false } do
        local parts = lens.attribution(run, { answer = { 11, 12 }, wrong = wrong or nil, pos = pos, neurons = true })
        local at = { pos = pos }
        local metric = wrong and pb.metric.logit_diff({ 11, 12 }, 3, at) or pb.metric.logit({ 11, 12 }, at)
        local sum = parts.heads.values:sum() + parts.mlps.values:sum() + parts.attn_bias.values:sum() + parts.embed + (parts.pos_embed or 0) + parts.final_bias
        check.close(sum, metric(run), 1e-4)
        check.close(parts.total, sum, 1e-4)
        check.close(parts.measured, metric(run), 1e-6)
        local u = lens.direction(run, { 11, 12 }, wrong and { wrong } or nil, pos)
        for layer = 0, model.layers - 1 do
          local bias = (model:parameter(("blocks.%d.mlp.b_out"):format(layer)) * u):sum()
          check.close(parts.neurons.values:select(0, layer):sum() + bias, (parts.mlps:get { layer = layer }), 1e-4, "neurons of layer " .. layer)
        end
      end
    end
  end)

  check.test(("lens identity %s: the last row of the lens is the model, and lens.grid reads the lens's logits"):format(name), function()
    local all = lens.logits(run)
    check.eq(all:select(0, model.layers), run.logits)
    local probs = all:softmax(-1)
    local grid = lens.grid(run, { answer = 11, metric = "prob" })
    check.eq(grid.values.shape, { model.layers + 1, 7 })
    for layer = 0, model.layers do check.close((grid:get { layer = layer, pos = 4 }), probs:get(layer, 4, 11), 1e-6) end
    local some = lens.grid(run, { answer = 11, wrong = 12, metric = "logit_diff", pos = { 1, -1 } })
    check.close((some:get { layer = 1, pos = 6 }), all:get(1, 6, 11) - all:get(1, 6, 12), 1e-4)
    local kl = lens.grid(run, { metric = "kl", pos = -1 })
    check.close((kl:get { layer = model.layers, pos = 6 }), 0, 1e-6)
    local p, q = probs:select(0, model.layers):select(0, 6), probs:select(0, 0):select(0, 6)
    check.close((kl:get { layer = 0, pos = 6 }), (p * (p:log() - q:log())):sum(), 1e-4)
  end)

  check.test(("lens identity %s: rows of a rollout sum to 1, and without attention it is the identity"):format(name), function()
    local flow = lens.rollout(run).values
    check.close(flow:sum(1), pb.ones { 7 }, 1e-5)
    check.eq(lens.rollout(run, { residual = 1 }).values:get(3, 3), 1.0)
    check.close(lens.rollout(run, { residual = 0, layers = 1 }).values, run:value("pattern", 0):mean(0), 1e-6)
    local two = lens.rollout(run, { residual = 0, layers = 2 }).values
    check.close(two, run:value("pattern", 1):mean(0):matmul(run:value("pattern", 0):mean(0)), 1e-6)
  end)
end

-- ---- on the built-in model ----------------------------------------------------------------------------------------------------------------

check.test("lens: the answer appears in the last layers", function()
  local run = facts:run "The Eiffel Tower is located in the city of"
  local top = lens.top(run, { k = 2 })
  check.eq(#top, facts.layers + 1)
  check.eq(top[#top][1].token, "␣Paris")
  check.ok(top[1][1].token ~= "␣Paris" and top[1][1].prob >= top[1][2].prob)
  local rank = lens.grid(run, { answer = " Paris", metric = "rank", pos = -1 })
  check.eq((rank:get { layer = 6, pos = #run - 1 }), 0.0)
  check.ok((rank:get { layer = 2, pos = #run - 1 }) > 0, "known at the end before attention fetched it")
end)

local function fact_runs(n)
  local rows, prompts = pb.read "examples/models/facts/tasks/facts.jsonl", {}
  for i = 1, n do prompts[i] = rows[i * 8].prompt end
  return facts:runs(prompts)
end

check.test("lens: a tuned lens is nearer to the model than the logit lens and than its start, on prompts that it has not seen", function()
  local train, test = {}, {}
  for i, run in ipairs(fact_runs(100)) do table.insert(i <= 80 and train or test, run) end
  local tuned = lens.train(facts, train, { held_out = test, steps = 30, batch = 8, seed = 1 })
  check.eq(tuned.report.labels.lens, { "logit lens", "start", "tuned lens" })
  for layer = 0, facts.layers - 1 do
    local raw, start, best = (tuned.report:get { lens = 0, layer = layer }), (tuned.report:get { lens = 1, layer = layer }), (tuned.report:get { lens = 2, layer = layer })
    check.ok(best < raw and start < raw and (best < start or layer == facts.layers - 1), ("layer %d: logit lens %.3f, least squares %.3f, trained %.3f"):format(layer, raw, start, best))
    -- the KL of the report is that of the distributions
    local sum = 0
    for _, run in ipairs(test) do
      local p, q = run.logits:log_softmax(1), lens.logits(run, { tuned = tuned }):select(0, layer):log_softmax(1)
      sum = sum + (p:exp() * (p - q)):sum() / #run
    end
    check.close(best, sum / #test, 1e-4, "layer " .. layer)
  end
  check.close(tuned:quality(test).values:select(0, 1), tuned.report.values:select(0, 2), 1e-6)
  check.eq(lens.logits(test[1], { tuned = tuned }):select(0, facts.layers), test[1].logits)
end)

check.test("lens: a tuned lens that starts at the identity is the logit lens, and its steps go down the gradient of the KL", function()
  local small = pb.load(data .. "models/llama")
  local runs, tokens = {}, {}
  for i = 1, 6 do
    tokens[i] = {}
    for p = 1, 5 do tokens[i][p] = (i * 17 + p * 29) % 80 end
  end
  runs = small:runs(tokens)
  local none = lens.train(small, runs, { start = "identity", steps = 0, held_out = runs })
  for _, run in ipairs(runs) do check.eq(lens.logits(run, { tuned = none }), lens.logits(run)) end
  check.eq(none.report.values:select(0, 0), none.report.values:select(0, 2))
  -- Adam's first step is the rate against the sign of the gradient, entry by entry
  local once = lens.train(small, runs, { start = "identity", steps = 1, rate = 0.01, decay = 0, batch = 6, held_out = runs })
  local function kl(layer) return none:quality(runs):get { lens = 1, layer = layer } end
  local seen = 0
  for layer = 0, small.layers - 1 do
    for _, at in ipairs { { 0, 0 }, { 3, 7 }, { 20, 1 }, { 31, 30 }, { 9, 9 } } do
      local A, ends = none.A[layer + 1], {}
      for i, step in ipairs { 0.05, -0.05 } do
        A:set(at[1], at[2], step)
        ends[i] = kl(layer)
      end
      A:set(at[1], at[2], 0)
      if math.abs(ends[1] - ends[2]) > 2e-5 then
        seen = seen + 1
        check.close(once.A[layer + 1]:get(at[1], at[2]), ends[1] > ends[2] and -0.01 or 0.01, 1e-6, ("layer %d, entry %d, %d"):format(layer, at[1], at[2]))
      end
    end
  end
  check.ok(seen >= 10, "entries with a slope that float32 can tell: " .. seen)
end)

check.test("lens: what cannot be trained is told", function()
  check.raises(function() lens.train(facts, { facts:run { 5 } }) end, "more than one token")
  check.raises(function() lens.train(facts, fact_runs(3)) end, "3 runs leave none", "held_out")
  check.raises(function() lens.train(facts, fact_runs(6), { start = "random" }) end, "least_squares, identity")
  check.raises(function() lens.train(facts, fact_runs(6), { steps = 1.5 }) end, "steps")
end)

check.test("lens: the examples that excite a neuron most are the largest of all its values", function()
  local prompts = { "The Eiffel Tower is located in the city of", "Mary and John went to the store", "The Roman Forum is", "one two three" }
  local best, all = lens.examples(facts, prompts, { layer = 1, neuron = 17, k = 3, batch = 2 }), {}
  for i, run in ipairs(facts:runs(prompts)) do
    for p, x in ipairs(run[{ site = "mlp_post", layer = 1, neuron = 17 }]:reshape(-1):tolist()) do all[#all + 1] = { x, i, p - 1, run.labels[p] } end
  end
  table.sort(all, function(a, b) return a[1] > b[1] end)
  check.eq(#best, 3)
  for i = 1, 3 do check.eq({ best[i].value, best[i].prompt, best[i].pos, best[i].token }, all[i]) end
end)

check.test("lens: the most exciting prompts may be texts, ids, runs or facts, in any mixture", function()
  local texts = { "The Eiffel Tower is located", "Mary and John went", "one two three" }
  local wanted = lens.examples(facts, texts, { layer = 2, neuron = 40, k = 4 })
  local got = lens.examples(facts, { facts:run(texts[1]), texts[2], facts:encode(texts[3]) }, { layer = 2, neuron = 40, k = 4 })
  for i = 1, 4 do check.eq({ got[i].value, got[i].prompt, got[i].pos }, { wanted[i].value, wanted[i].prompt, wanted[i].pos }) end
end)

check.test("lens: attention flow is the smallest cut, never less than the rollout, and attention itself in one layer", function()
  local run = facts:run "Mary and John"
  local T, roll, from = #run, lens.rollout(run, { layers = 2 }), lens.flow(run, { layers = 2 })
  local A = {}
  for layer = 0, 1 do
    A[layer] = (run:value("pattern", layer):mean(0) * 0.5):totable()
    for p = 1, T do A[layer][p][p] = A[layer][p][p] + 0.5 end
  end
  for src = 0, T - 1 do
    local smallest = math.huge -- over all cuts: which states between the layers, and which other tokens, are on the side of the top
    for above = 0, 2 ^ (2 * T) - 1 do
      local function on_top(bit) return (above >> bit) & 1 == 1 end
      if not on_top(T + src) then
        local cut = 0
        for k = 1, T do
          if not on_top(k - 1) then cut = cut + A[1][T][k] end
          for j = 1, k do
            if on_top(k - 1) and not on_top(T + j - 1) then cut = cut + A[0][k][j] end
          end
        end
        smallest = math.min(smallest, cut)
      end
    end
    check.close((from:get { src = src }), smallest, 1e-5, "token " .. src)
    check.ok((from:get { src = src }) >= (roll:get { dest = T - 1, src = src }) - 1e-5, "token " .. src)
  end
  local one = lens.flow(run, { layers = 1, residual = 0, pos = 2 })
  check.close(one.values:narrow(0, 0, 3), run:value("pattern", 0):mean(0):select(0, 2):narrow(0, 0, 3), 1e-6)
  check.eq(one.values:narrow(0, 3, T - 3):abs():max(), 0.0, "nothing from later tokens")
  check.close(lens.flow(run, { residual = 1 }).values:get(T - 1), 1, 1e-6)
  check.raises(function() lens.flow(run, { pos = 99 }) end, "position 99")
  check.raises(function() lens.flow(run, { layers = 7 }) end, "1 to 6")
  check.raises(function() lens.flow "text" end, "must be a run")
end)

check.test("lens: errors say what was wrong", function()
  local run = facts:run "The Eiffel Tower"
  check.raises(function() lens.grid(run, {}) end, "needs answer")
  check.raises(function() lens.grid(run, { answer = " Paris", metric = "probability" }) end, "prob, logit")
  check.raises(function() lens.grid(run, { answer = " Paris", pos = 99 }) end, "position 99")
  check.raises(function() lens.grid("text", { answer = " Paris" }) end, "must be a run")
  check.raises(function() lens.attribution(run, {}) end, "needs answer")
  check.raises(function() lens.attribution(run, { answer = " Paris", pos = 40 }) end, "pos must be a position")
  check.raises(function() lens.examples(facts, { "a" }, { layer = 1 }) end, "layer and neuron")
  check.raises(function() lens.examples(facts, {}, { layer = 1, neuron = 2 }) end, "lens.examples: the data set is empty")
  check.raises(function() lens.rollout(run, { residual = 1.5 }) end, "share from 0 to 1")
  check.raises(function() lens.rollout("text") end, "must be a run")
end)
