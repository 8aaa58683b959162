-- Sweeps are lists of variants: every cell against the run patched by hand. Sets of pairs.
local pb, check = require "patchbay", require "patchbay.check"

local model = pb.load "facts"
local clean = model:run "The Eiffel Tower is located in the city of"
local corrupt = clean:fork "The Roman Forum is located in the city of"
local metric = pb.metric.logit_diff(" Paris", " Rome")

-- Every cell of the grid against metric(corrupt:patched { patch }); masked entries of a pattern have the run's own value.
local function by_hand(grid, patch_of)
  for _, cell in ipairs(grid:cells()) do
    local masked = cell.dest and cell.src and cell.src > cell.dest
    check.eq(cell.value, metric(masked and corrupt or corrupt:patched { patch_of(cell) }))
  end
end

check.test("sweep over layers and positions", function()
  local grid = corrupt:sweep { site = "resid_pre", over = { "layer", "pos" }, from = clean, metric = metric }
  check.eq({ grid.axes, grid.values.shape, grid.coords.layer, grid.coords.pos[12] }, { { "layer", "pos" }, { 6, 12 }, { 0, 1, 2, 3, 4, 5 }, 11 })
  check.eq({ grid.base, grid.target }, { metric(corrupt), metric(clean) })
  check.eq({ grid.labels.pos[1], grid.labels.pos[6], grid.labels.layer[3] }, { "The", "␣Tower / um", "2" })
  check.eq({ grid.kind, grid.unit, grid.metric }, { "value", "logit difference", "logit_diff(' Paris', ' Rome')" })
  check.eq({ grid.about.model, grid.about.prompt, grid.about.from, grid.about.site }, { "facts", corrupt.text, clean.text, "resid_pre" })
  by_hand(grid, function(c) return { site = "resid_pre", layer = c.layer, pos = c.pos, from = clean } end)
end)

check.test("sweeps over every axis, in any order and combination", function()
  by_hand(corrupt:sweep { site = "z", over = { "head", "layer" }, from = clean, metric = metric },
          function(c) return { site = "z", layer = c.layer, head = c.head, from = clean } end)
  by_hand(corrupt:sweep { site = "z", over = "head", layer = { 1, 2 }, pos = -1, from = clean, metric = metric },
          function(c) return { site = "z", layer = { 1, 2 }, head = c.head, pos = -1, from = clean } end)
  by_hand(corrupt:sweep { site = "mlp_post", over = { "neuron" }, layer = 0, neuron = { 0, 7, 511, -2 }, value = 0, metric = metric },
          function(c) return { site = "mlp_post", layer = 0, neuron = c.neuron, value = 0 } end)
  by_hand(corrupt:sweep { site = "pattern", over = { "dest", "src" }, layer = 4, head = { 1, 3 }, dest = { 5, -1 }, from = clean, metric = metric },
          function(c) return { site = "pattern", layer = 4, head = { 1, 3 }, dest = c.dest, src = c.src, from = clean } end)
  by_hand(corrupt:sweep { site = "attn_scores", over = { "layer", "src" }, dest = -1, src = { 1, 2, 3, 4, 5 }, value = -math.huge, metric = metric },
          function(c) return { site = "attn_scores", layer = c.layer, dest = -1, src = c.src, value = -math.huge } end)
  by_hand(corrupt:sweep { site = { "attn_out", "mlp_out" }, over = { "layer" }, pos = { 4, 5 }, from = clean, metric = metric },
          function(c) return { site = c.site, layer = c.layer, pos = { 4, 5 }, from = clean } end)
  by_hand(corrupt:sweep { site = "blocks.2.hook_mlp_out", over = "pos", from = clean, metric = metric },
          function(c) return { site = "blocks.2.hook_mlp_out", pos = c.pos, from = clean } end)
  by_hand(corrupt:sweep { site = "hook_embed", over = "pos", noise = { std = 0.1, seed = 4 }, metric = metric },
          function(c) return { site = "hook_embed", pos = c.pos, noise = { std = 0.1, seed = 4 } } end)
  by_hand(corrupt:sweep { site = "z", over = { "layer", "head" }, mean = { clean, corrupt }, metric = metric },
          function(c) return { site = "z", layer = c.layer, head = c.head, mean = { clean, corrupt } } end)
  by_hand(corrupt:sweep { site = "mlp_out", over = "layer", metric = metric, fn = function(act, at) return (act + clean[at]) * 0.5 end },
          function(c) return { site = "mlp_out", layer = c.layer, fn = function(act, at) return (act + clean[at]) * 0.5 end } end)
end)

check.test("masked entries are part of a table, but no sweep of their own", function()
  local function sweep(spec)
    local full = { site = "pattern", value = 0, metric = metric, over = { "layer" } }
    for k, v in pairs(spec) do full[k] = v end
    return function() return corrupt:sweep(full) end
  end
  check.raises(sweep { dest = 3, src = 7 }, "masked", "src (7 or later) comes after dest (3 or earlier)", "exchanged")
  check.raises(sweep { over = { "dest", "src" }, layer = 2, dest = { 0, 1 }, src = { 2, { 3, 4 } } }, "masked")
  check.raises(sweep { site = "attn_scores", over = "head", layer = 2, dest = -3, src = -1 }, "masked")
  local grid = sweep { over = { "dest", "src" }, layer = 2 }()
  check.eq(grid:get { dest = 3, src = 7 }, grid.base)
  check.ok(grid:get { dest = 11, src = 3 } ~= grid.base)
  check.eq(sweep({ over = { "dest", "src" }, layer = 2, dest = { 0, 1 }, src = { 1, 2 } })().values.shape, { 2, 2 })
end)

check.test("errors count the cells of the whole sweep, beyond what goes to the engine at a time", function()
  local places = {}
  for i = 1, 65540 do places[i] = { 1, 2 } end
  places[#places] = { 1 } -- but from_pos names two
  local spec = { site = "resid_pre", layer = 5, over = "pos", pos = places, from = clean, from_pos = { 1, 2 }, metric = metric, dry = true }
  check.raises(function() corrupt:sweep(spec) end, "variant 65540: ", "from_pos lists 2, but 1 are patched")
  check.raises(function() corrupt:sweep { site = "resid_pre", over = "layer", value = 0, metric = metric, with = { { site = "z", lyer = 1, value = 0 } } } end,
               "variant 1, patch 2: ", "unknown field 'lyer'")
end)

check.test("coordinates: negative ones are named from the start, groups are patched together", function()
  local grid = corrupt:sweep { site = "resid_pre", over = { "layer", "pos" }, layer = { -1, 2 }, pos = { { name = "subject", 1, 2, 3, 4, 5 }, -1, { 6, 7 } },
                               from = clean, metric = metric }
  check.eq({ grid.coords.layer, grid.coords.pos[2], grid.labels.pos }, { { 5, 2 }, 11, { "subject", "␣of", "␣is ␣located" } })
  check.eq(grid:get { layer = 2, pos = "subject" }, metric(corrupt:patched { { site = "resid_pre", layer = 2, pos = { 1, 2, 3, 4, 5 }, from = clean } }))
  check.eq(grid:get { layer = 5, pos = 11 }, metric(corrupt:patched { { site = "resid_pre", layer = 5, pos = -1, from = clean } }))
end)

check.test("windows of layers, and patches held in every cell", function()
  local windows = { { 0, 1 }, { 0, 1, 2 }, { 1, 2, 3 }, { 2, 3, 4 }, { 3, 4, 5 }, { 4, 5 } }
  local grid = corrupt:sweep { site = "mlp_out", over = { "layer" }, window = 3, pos = 5, from = clean, metric = metric }
  for layer = 0, 5 do
    check.eq(grid:get { layer = layer }, metric(corrupt:patched { { site = "mlp_out", layer = windows[layer + 1], pos = 5, from = clean } }))
  end
  local held = { { site = "hook_embed", pos = { 1, 2, 3, 4, 5 }, noise = { std = 0.3, seed = 1 } } }
  local noisy = clean:sweep { site = "resid_post", over = { "layer" }, pos = 5, from = clean, with = held, metric = metric }
  check.eq(noisy.base, metric(clean:patched(held)))
  for layer = 0, 5 do
    check.eq(noisy:get { layer = layer }, metric(clean:patched { { site = "resid_post", layer = layer, pos = 5, from = clean }, held[1] }))
  end
end)

check.test("a sweep's plan", function()
  local plan = corrupt:sweep { site = "z", over = { "layer", "head" }, from = clean, metric = metric, dry = true }
  check.eq(plan.variants, 6 * 4 + 2)
  check.ok(plan.flops > 0 and plan.bytes > 0)
end)

check.test("sweeps that are wrong, each with its reason", function()
  local function raises(spec, ...) return check.raises(function() corrupt:sweep(spec) end, ...) end
  raises({ site = "resid_pre", over = { "layer", "position" }, from = clean, metric = metric }, "'position' is no axis")
  raises({ site = "resid_pre", over = { "layer", "poss" }, from = clean, metric = metric }, "did you mean 'pos'")
  raises({ site = "resid_pre", over = {}, from = clean, metric = metric }, "over")
  raises({ site = "resid_pre", over = { "layer", "layer" }, from = clean, metric = metric }, "named twice")
  raises({ site = "resid_pre", over = { "layer", "head" }, from = clean, metric = metric }, "no head axis", "layer, pos, neuron")
  raises({ site = "blocks.2.hook_mlp_out", over = { "layer" }, from = clean, metric = metric }, "names its layer already")
  raises({ site = "hook_embed", over = { "layer" }, from = clean, metric = metric }, "no layer axis")
  raises({ site = "z", over = { "head" }, from = clean, metric = metric }, "every layer")
  raises({ site = "z", over = { "layer", "head" }, form = clean, metric = metric }, "did you mean 'from'")
  raises({ site = "z", over = { "layer", "head" }, metric = metric }, "what to patch in")
  raises({ site = "z", over = { "layer", "head" }, from = clean, zero = true, metric = metric }, "exclude each other")
  raises({ site = "z", over = { "layer", "head" }, from = clean }, "metric is missing")
  raises({ site = "z", over = { "layer", "head" }, from = clean, metric = "prob" }, "pairs")
  raises({ site = "z", over = { "layer", "head" }, layer = 17, from = clean, metric = metric }, "layer 17 is out of range")
  raises({ site = "z", over = { "layer", "head" }, head = { 1, 4 }, from = clean, metric = metric }, "head 4 is out of range")
  raises({ site = "resid_pre", over = { "layer", "pos" }, pos = { 12 }, from = clean, metric = metric }, "pos 12 is out of range")
  raises({ site = "resid_mit", over = { "layer" }, from = clean, metric = metric }, "did you mean 'resid_mid'")
  raises({ site = "z", over = { "head" }, layer = 1, window = 2, from = clean, metric = metric }, "window")
  raises({ site = { "z", "resid_pre" }, over = { "layer", "head" }, from = clean, metric = metric }, "'resid_pre' has no head axis")
  local short = clean:fork("The Colosseum is located in the city of", { length = "any" })
  raises({ site = "z", over = { "layer", "head" }, from = short, metric = metric }, "11 tokens", "has 12", "first difference")
  check.raises(function() corrupt.sweep(model, {}) end, "colon")
end)

-- ---- sets -----------------------------------------------------------------------------------------------------------------

local PAIRS = {
  { clean = "When Mary and John went to the store, John gave a drink to", corrupt = "When Mary and John went to the store, Mary gave a drink to",
    answer = " Mary", wrong = " John", positions = { S2 = 10, names = { 2, 4 } } },
  { clean = "When Tom and Anna went to the park, Anna gave a ball to", corrupt = "When Tom and Anna went to the park, Tom gave a ball to",
    answer = " Tom", wrong = " Anna", positions = { S2 = 10, names = { 2, 4 } } },
  { clean = "When Simon and Emily went to the park, Emily gave a ball to", corrupt = "When Simon and Emily went to the park, Simon gave a ball to",
    answer = { " Simon" }, wrong = model:token " Emily", positions = { S2 = 10, names = { 2, 4 } }, name = "third", info = { any = 1 } },
}
local set = pb.pairs(model, PAIRS)

check.test("set: pairs are runs with their answers", function()
  check.eq({ #set, set[1].clean.text, set[3].corrupt.text, set[3].answer, set[3].name }, { 3, PAIRS[1].clean, PAIRS[3].corrupt, { model:token " Simon" }, "third" })
  check.eq({ set[2].clean.labels[11], set[2].corrupt.labels[11] }, { "␣Anna", "␣Tom" })
  check.eq(set:accuracy(), 1.0)
  check.eq(set:accuracy(pb.load "facts"), 1.0)
  local values = set:measure("logit_diff", "corrupt")
  for i = 1, 3 do check.eq(values:get(i - 1), pb.metric.logit_diff(set[i].answer, set[i].wrong)(set[i].corrupt)) end
  local a, b = set:split(0.5)
  check.eq({ #a, #b, b[1].clean.text }, { 2, 1, PAIRS[3].clean })
  check.eq(#set:filter(function(pair) return pair.name == "third" end), 1)
  check.ok(tostring(set):find "3 pairs")
end)

check.test("set: a sweep is the mean of the pairs' sweeps, with its standard error", function()
  local grid = set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff" }
  local parts = {}
  for i = 1, 3 do
    parts[i] = set[i].corrupt:sweep { site = "z", over = { "layer", "head" }, from = set[i].clean, metric = pb.metric.logit_diff(set[i].answer, set[i].wrong) }
    check.eq(grid.parts[i].values:tolist(), parts[i].values:tolist(), "pair " .. i)
    check.eq({ grid.parts[i].base, grid.parts[i].target }, { parts[i].base, parts[i].target })
  end
  for layer = 0, 5 do
    for head = 0, 3 do
      local x, sum, squares = {}, 0, 0
      for i = 1, 3 do x[i] = parts[i]:get { layer = layer, head = head }; sum = sum + x[i] end
      for i = 1, 3 do squares = squares + (x[i] - sum / 3) ^ 2 end
      local value, se = grid:get { layer = layer, head = head }
      check.close(value, sum / 3, 1e-5)
      check.close(se, math.sqrt(squares / 2 / 3), 1e-5)
    end
  end
  check.close(grid.base, (parts[1].base + parts[2].base + parts[3].base) / 3, 1e-6)
end)

check.test("set: the recovered share is a ratio of means; each pair's own on request", function()
  local grid = set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff" }
  local share, each = grid:recovered(), grid:recovered "each"
  local n, d, r, own = {}, {}, {}, {}
  local N, D = 0, 0
  for i, part in ipairs(grid.parts) do
    n[i], d[i] = part:get { layer = 2, head = 3 } - part.base, part.target - part.base
    N, D, own[i] = N + n[i] / 3, D + d[i] / 3, n[i] / d[i]
  end
  local squares = 0
  for i = 1, 3 do r[i] = (n[i] - N / D * d[i]) / D; squares = squares + r[i] ^ 2 end
  local value, se = share:get { layer = 2, head = 3 }
  check.close(value, N / D, 1e-6)
  check.close(se, math.sqrt(squares / 2 / 3), 1e-6)
  check.close(each:get { layer = 2, head = 3 }, (own[1] + own[2] + own[3]) / 3, 1e-6)
  check.eq({ share.base, share.target, share.kind }, { 0, 1, "recovered" })
  check.eq({ share:top(1)[1].layer, share:top(1)[1].head }, { 2, 3 })
end)

check.test("set: noising, ablation, named positions, metrics by name", function()
  local noising = set:sweep { site = "z", over = { "layer", "head" }, metric = "prob", direction = "noising" }
  check.eq(noising.parts[2].values:tolist(), set[2].clean:sweep({ site = "z", over = { "layer", "head" }, from = set[2].corrupt, metric = pb.metric.prob(" Tom") }).values:tolist())
  local zeroed = set:sweep { site = "mlp_out", over = "layer", zero = true, metric = "kl" }
  check.eq(zeroed.parts[1].values:tolist(), set[1].clean:sweep({ site = "mlp_out", over = "layer", zero = true, metric = pb.metric.kl(set[1].clean) }).values:tolist())
  local named = set:sweep { site = "resid_pre", over = { "layer", "pos" }, pos = { "names", "S2", "end" }, metric = "logit_diff" }
  check.eq(named.labels.pos, { "names", "S2", "end" })
  check.eq(named.parts[1]:get { layer = 1, pos = "names" },
           pb.metric.logit_diff(" Mary", " John")(set[1].corrupt:patched { { site = "resid_pre", layer = 1, pos = { 2, 4 }, from = set[1].clean } }))
  local fixed = set:sweep { site = "resid_pre", over = "layer", pos = "S2", metric = "logit_diff" }
  check.eq(fixed.values:tolist(), named:select({ pos = "S2" }).values:tolist())
  for _, name in ipairs { "logit", "log_prob", "rank", "prob_diff", "nll" } do
    local grid = set:sweep { site = "attn_out", over = "layer", metric = name }
    check.eq(#grid.parts, 3, name)
  end
  local own = set:sweep { site = "attn_out", over = "layer", metric = function(pair) return pb.metric.logit(pair.wrong) end }
  check.eq(own.parts[3].base, pb.metric.logit(" Emily")(set[3].corrupt))
end)

check.test("set: prompts of different lengths share axes without positions, not with them", function()
  local mixed = pb.pairs(model, { PAIRS[1], { clean = "The Eiffel Tower is located in the city of", corrupt = "The Roman Forum is located in the city of", answer = " Paris", wrong = " Rome" } })
  check.eq(mixed:sweep({ site = "z", over = { "layer", "head" }, metric = "logit_diff" }).values.shape, { 6, 4 })
  check.raises(function() mixed:sweep { site = "resid_pre", over = { "layer", "pos" }, metric = "logit_diff" } end, "15 and 12 tokens", "named positions")
  check.eq(mixed:sweep({ site = "resid_pre", over = { "layer", "pos" }, pos = { 0, "end" }, metric = "logit_diff" }).values.shape, { 6, 2 })
end)

check.test("set: what is refused", function()
  local function raises(pair, ...) return check.raises(function() pb.pairs(model, { PAIRS[1], pair }) end, ...) end
  raises({ clean = "The Eiffel Tower is in", corrupt = "The Colosseum is in", answer = " Paris" }, "pair 2", "8 tokens", "7", "first difference")
  raises({ clean = "The Eiffel Tower is in", corrupt = "The Roman Forum is in", answer = " Parisian" }, "pair 2, answer", "2 tokens", "'ian'")
  raises({ clean = "The", corrupt = "When", anwser = " Paris" }, "pair 2", "did you mean 'answer'")
  raises({ clean = "The" }, "pair 2: corrupt is missing")
  check.raises(function() pb.pairs(model, {}) end, "empty")
  check.raises(function() pb.pairs("facts", PAIRS) end, "must be a model")
  check.raises(function() set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_dif" } end, "did you mean 'logit_diff'")
  check.raises(function() set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff", direction = "denoise" } end, "denoising")
  check.raises(function() set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff", zero = true, direction = "noising" } end, "direction")
  check.raises(function() set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff", from = clean } end, "other prompt")
  check.raises(function() set:sweep { site = "z", over = "layer", pos = "S3", metric = "logit_diff" } end, "did you mean 'S2'")
  check.raises(function() set:split(1.5) end, "between 0 and 1")
  check.raises(function() return set[4] end, "no pair 4")
  check.raises(function() return set.sweeps end, "did you mean 'sweep'")
end)
