-- Patches: what each field does, computed a second way; and what is refused.
local pb, check = require "patchbay", require "patchbay.check"

local model = pb.load "facts"
local clean = model:run "The Eiffel Tower is located in the city of"
local corrupt = clean:fork "The Roman Forum is located in the city of"
local short = clean:fork("The Colosseum is located in the city of", { length = "any" })
local metric = pb.metric.log_prob " Paris"

local function same(a, b, note)
  check.eq(a.shape, b.shape, note)
  check.eq((a - b):abs():max(), 0.0, note)
end

-- The site's value in the corrupted run with one patch.
local function patched(patch) return corrupt:patched({ patch }):value(patch.site, patch.layer) end

check.test("from: the chosen entries become the other run's, the rest stays", function()
  local mine, theirs = corrupt:value("z", 2), clean:value("z", 2)
  local got = patched { site = "z", layer = 2, pos = { 3, -1 }, head = 1, neuron = { 0, 31 }, from = clean }
  for pos = 0, 11 do
    for head = 0, 3 do
      for _, n in ipairs { 0, 1, 30, 31 } do
        local chosen = (pos == 3 or pos == 11) and head == 1 and (n == 0 or n == 31)
        check.eq(got:get(pos, head, n), (chosen and theirs or mine):get(pos, head, n))
      end
    end
  end
  local pattern = patched { site = "pattern", layer = 4, head = 2, dest = { 5, -1 }, src = 3, from = clean }
  check.eq(pattern:get(2, 11, 3), clean:value("pattern", 4):get(2, 11, 3))
  check.eq(pattern:get(2, 11, 4), corrupt:value("pattern", 4):get(2, 11, 4), "the row is not renormalised")
end)

check.test("numbers, tensors, zero, add, scale", function()
  local x = corrupt:value("mlp_out", 1)
  same(patched { site = "mlp_out", layer = 1, value = 3 }, x * 0 + 3)
  same(patched { site = "mlp_out", layer = 1, zero = true }, x * 0)
  same(patched { site = "mlp_out", layer = 1, add = 0.5 }, x + 0.5)
  same(patched { site = "mlp_out", layer = 1, scale = -2 }, x * -2)
  local row = pb.randn { 128, seed = 3 }
  same(patched { site = "mlp_out", layer = 1, value = row }, (x * 0) + row)
  same(patched { site = "mlp_out", layer = 1, add = row }, x + row)
  same(patched { site = "mlp_out", layer = 1, scale = row }, x * row)
  same(patched { site = "mlp_out", layer = 1, neuron = { 4, 9 }, value = { 1, 2 } }:index(1, { 4, 9 }), (x:index(1, { 4, 9 }) * 0) + pb.tensor { 1, 2 })
end)

check.test("mean: over runs, over runs and positions, over the run's own positions", function()
  local runs = { clean, corrupt, clean:fork { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 } }
  local sum = runs[1]:value("z", 3) + runs[2]:value("z", 3) + runs[3]:value("z", 3)
  check.close(patched { site = "z", layer = 3, mean = runs }, sum / 3, 1e-5)
  local got = patched { site = "z", layer = 3, pos = { 2, 5 }, head = { 0, 3 }, mean = runs }
  check.close(got:index(0, { 2, 5 }):index(1, { 0, 3 }), (sum / 3):index(0, { 2, 5 }):index(1, { 0, 3 }), 1e-5)
  check.eq(got:get(3, 1, 7), corrupt:value("z", 3):get(3, 1, 7))
  local all = (runs[1]:value("z", 3):sum(0) + short:value("z", 3):sum(0)) / (12 + 11)
  check.close(patched { site = "z", layer = 3, mean = { runs[1], short, over = "pos" } }:select(0, 7), all, 1e-5)
  check.close(patched { site = "z", layer = 3, mean = "pos" }:select(0, 7), corrupt:value("z", 3):mean(0), 1e-5)
  local pattern = patched { site = "pattern", layer = 3, mean = { clean, corrupt } }
  check.close(pattern, (clean:value("pattern", 3) + corrupt:value("pattern", 3)) / 2, 1e-6)
  check.raises(function() patched { site = "pattern", layer = 3, mean = "pos" } end, "no mean over positions")
  check.raises(function() patched { site = "z", layer = 3, mean = { clean, short } } end, "12", "11", "first difference")
  check.raises(function() patched { site = "z", layer = 3, mean = {} } end, "empty list of runs")
  check.raises(function() patched { site = "z", layer = 3, mean = { 3 } } end, "entry 1")
  check.raises(function() patched { site = "z", layer = 3, mean = { clean, over = "head" } } end, "'runs' or 'pos'")
end)

check.test("one mean in many variants, of different sites and runs", function()
  local variants, want = {}, {}
  local runs = { clean, corrupt }
  for layer = 0, 5 do
    for pos = 0, 11 do
      variants[#variants + 1] = { { site = "resid_pre", layer = layer, pos = pos, mean = runs } }
      local value = (clean:value("resid_pre", layer) + corrupt:value("resid_pre", layer)) / 2
      want[#want + 1] = { { site = "resid_pre", layer = layer, pos = pos, value = value:narrow(0, pos, 1) } }
    end
  end
  check.close(corrupt:measure(variants, metric), corrupt:measure(want, metric), 1e-4)
  local own = pb.measure { { run = clean, patches = { { site = "z", layer = 1, mean = "pos" } }, metric = metric },
                           { run = corrupt, patches = { { site = "z", layer = 1, mean = "pos" } }, metric = metric } }
  check.close(own:get(0), clean:measure({ { { site = "z", layer = 1, value = clean:value("z", 1):mean(0) } } }, metric):get(0), 1e-4)
  check.close(own:get(1), corrupt:measure({ { { site = "z", layer = 1, value = corrupt:value("z", 1):mean(0) } } }, metric):get(0), 1e-4)
end)

check.test("noise is added, or takes the place, with the recorded draws", function()
  local x = corrupt:value("resid_post", 2)
  local noise = pb.randn { 12, 128, seed = 5, draw = 9 }
  check.close(patched { site = "resid_post", layer = 2, noise = { std = 0.25, seed = 5, draw = 9 } }, x + noise * 0.25, 1e-6)
  check.close(patched { site = "resid_post", layer = 2, noise = { std = 2, seed = 5, draw = 9, replace = true } }, noise * 2, 1e-6)
  check.close(patched { site = "resid_post", layer = 2, pos = 7, noise = { std = 1, seed = 5, draw = 9 } }:select(0, 7), x:select(0, 7) + noise:select(0, 7), 1e-6)
  check.raises(function() patched { site = "z", layer = 2, noise = { seed = 1 } } end, "std")
  check.raises(function() patched { site = "z", layer = 2, noise = -1 } end, "not negative")
  check.raises(function() patched { site = "z", layer = 2, noise = { std = 1, seeds = 3 } } end, "did you mean 'seed'")
end)

check.test("from another place: site, layer, position, head", function()
  same(patched { site = "resid_pre", layer = 4, from = clean, from_layer = 2 }, clean:value("resid_pre", 2))
  same(patched { site = "attn_out", layer = 1, from = clean, from_site = "mlp_out" }, clean:value("mlp_out", 1))
  same(patched { site = "resid_mid", layer = 1, from = clean, from_site = "blocks.3.hook_resid_post" }, clean:value("resid_post", 3))
  local swapped = patched { site = "z", layer = 1, head = { 0, 2 }, from = corrupt, from_head = { 2, 0 } }
  same(swapped:select(1, 0), corrupt:value("z", 1):select(1, 2))
  same(swapped:select(1, 2), corrupt:value("z", 1):select(1, 0))
  local moved = patched { site = "resid_pre", layer = 3, pos = { 5, -1 }, from = short, from_pos = { 4, -1 } }
  same(moved:select(0, 5), short:value("resid_pre", 3):select(0, 4))
  same(moved:select(0, 11), short:value("resid_pre", 3):select(0, 10))
  local p = corrupt:patched { { site = "resid_pre", layer = { 1, 2 }, from = clean, from_layer = { 3, 4 } } }
  same(p:value("resid_pre", 2), clean:value("resid_pre", 4))
  check.raises(function() patched { site = "resid_pre", layer = 3, pos = { 5 }, from = short, from_pos = { 4, 3 } } end, "from_pos")
  check.raises(function() corrupt:patched { { site = "resid_pre", layer = { 1, 2 }, from = clean, from_layer = { 3 } } } end, "from_layer")
  check.raises(function() patched { site = "z", layer = 1, value = 0, from_pos = 2 } end, "'from' only")
  check.raises(function() patched { site = "z", layer = 1, value = 0, from_layer = 2 } end, "'from' only")
  check.raises(function() patched { site = "z", layer = 1, from = short } end, "11 tokens", "first difference", "from_pos")
end)

check.test("layers and sites as lists, and all of them", function()
  local p = corrupt:patched { { site = { "attn_out", "mlp_out" }, layer = { 1, 3 }, pos = 2, zero = true } }
  check.eq(p.patches, 4)
  for _, site in ipairs { "attn_out", "mlp_out" } do
    check.eq(p:value(site, 3):select(0, 2):abs():max(), 0.0)
    check.ok(p:value(site, 2):select(0, 2):abs():max() > 0)
  end
  check.eq(corrupt:patched({ { site = "mlp_out", layer = "all", zero = true } }).patches, 6)
  check.eq(corrupt:patched({ { site = "mlp_out", layer = -1, zero = true } }):value("mlp_out", 5):abs():max(), 0.0)
  check.eq(corrupt:patched { site = "mlp_out", layer = 2, zero = true }.patches, 1, "one patch needs no list")
  check.eq(corrupt:patched({}).patches, 0)
end)

check.test("functions: in place, a tensor, a number, broadcasting; and what at says", function()
  local x = corrupt:value("z", 2)
  same(patched { site = "z", layer = 2, fn = function(act) act:mul_(0.5) end }, x * 0.5)
  same(patched { site = "z", layer = 2, fn = function(act) return act + 1 end }, x + 1)
  same(patched { site = "z", layer = 2, fn = function() return 7 end }, x * 0 + 7)
  same(patched { site = "z", layer = 2, fn = function(act) return act:mean(0, true) end }, x * 0 + x:mean(0, true))
  local seen
  local got = patched { site = "z", layer = 2, pos = { 3, -1 }, head = 1, fn = function(act, at)
    seen = { act.shape, at.site, at.layer, at.pos, at.head, at.neuron, at.variant }
    return clean[at]
  end }
  check.eq(seen, { { 2, 1, 32 }, "blocks.2.attn.hook_z", 2, { 3, 11 }, { 1 }, nil, nil })
  same(got, patched { site = "z", layer = 2, pos = { 3, -1 }, head = 1, from = clean })
  same(patched { site = "pattern", layer = 2, dest = -1, fn = function(act, at) return clean[at] end },
       patched { site = "pattern", layer = 2, dest = -1, from = clean })
  local numbers = {}
  corrupt:measure({ {}, { { site = "mlp_out", layer = { 1, 2 }, fn = function(_, at) numbers[#numbers + 1] = { at.variant, at.layer } end } } }, metric)
  check.eq(numbers, { { 2, 1 }, { 2, 2 } })
end)

check.test("a function's act is its own: keeping and changing it later changes nothing", function()
  local kept
  local p = corrupt:patched { { site = "z", layer = 2, fn = function(act) kept = act; return act * 2 end } }
  local before = p.logits
  kept:fill_(1e6)
  same(p.logits, before)
end)

check.test("functions of a patched run are kept as long as it lives, and called for what builds on it", function()
  local p
  do
    local factor = pb.tensor { 0.5 }
    p = corrupt:patched { { site = "mlp_out", layer = 1, fn = function(act) return act * factor end } }
  end
  collectgarbage() collectgarbage()
  same(p:value("mlp_pre", 3), corrupt:patched { { site = "mlp_out", layer = 1, scale = 0.5 } }:value("mlp_pre", 3))
  local q = p:patched { { site = "z", layer = 3, zero = true } }
  p = nil
  collectgarbage() collectgarbage()
  local want = corrupt:patched { { site = "mlp_out", layer = 1, scale = 0.5 }, { site = "z", layer = 3, zero = true } }
  same(q.logits, want.logits)
  same(q:value("mlp_post", 1), want:value("mlp_post", 1))
  check.eq(q:measure({ { { site = "z", layer = 4, zero = true } } }, metric):get(0), want:measure({ { { site = "z", layer = 4, zero = true } } }, metric):get(0))
  collectgarbage()
end)

check.test("a function that throws, returns nonsense, or asks for nonsense", function()
  local function with(fn) return function() corrupt:patched { { site = "z", layer = 1, fn = fn } } end end
  check.raises(with(function() error "my own" end), "patch.lua:", "my own")
  local object = {}
  local ok, err = pcall(with(function() error(object) end))
  check.ok(not ok and err == object, "the error's own value comes back")
  check.raises(with(function() return "x" end), "must return a tensor, a number, or nothing", "'x'")
  check.raises(with(function() return pb.zeros(2, 2) end), "[2, 2]", "[12, 4, 32]")
  check.raises(with(function(_, at) return short[at] end), "11")
  check.raises(with(function(act) return act.foo end), "no field or method 'foo'")
  check.raises(with(function() return model:run "" end), "empty")
  check.raises(function() corrupt:measure({ { { site = "z", layer = 1, fn = function() corrupt:measure({ { { site = "z", layer = 9 } } }, metric) end } } }, metric) end)
  -- a measurement inside a function is a measurement
  local inner
  corrupt:patched { { site = "z", layer = 1, fn = function() inner = clean:measure({ {} }, metric):get(0) end } }
  check.eq(inner, metric(clean))
  check.eq(metric(corrupt), corrupt:measure({ {} }, metric):get(0), "the engine is as it was")
end)

check.test("order: patches at one site apply in turn, a later site sees the earlier one", function()
  local x = corrupt:value("mlp_out", 2)
  same(corrupt:patched({ { site = "mlp_out", layer = 2, value = 1 }, { site = "mlp_out", layer = 2, scale = 3 } }):value("mlp_out", 2), x * 0 + 3)
  same(corrupt:patched({ { site = "mlp_out", layer = 2, scale = 3 }, { site = "mlp_out", layer = 2, value = 1 } }):value("mlp_out", 2), x * 0 + 1)
  local p = corrupt:patched { { site = "resid_post", layer = 2, fn = function(act) return act end }, { site = "mlp_out", layer = 2, zero = true } }
  same(p:value("resid_post", 2), corrupt:value("resid_mid", 2), "the list's order does not matter between sites")
end)

check.test("patches that are wrong, each with its reason", function()
  local function raises(patch, ...) return check.raises(function() corrupt:patched { patch } end, ...) end
  raises({ site = "z", layer = 2, form = clean }, "unknown field 'form'", "did you mean 'from'")
  raises({ site = "z", layer = 2 }, "patch 1", "where but not what")
  raises({ site = "z", layer = 2, from = clean, value = 0 }, "'from' and 'value' exclude each other")
  raises({ site = "z", layer = 2, zero = false }, "zero = false")
  raises({ site = "z", layer = 2, head = 4, from = clean }, "head 4 is out of range", "0 to 3")
  raises({ site = "resid_pre", layer = 2, head = 1, from = clean }, "no head axis")
  raises({ site = "resid_pre", layer = 2, pos = 40, from = clean }, "pos 40 is out of range", "0 to 11")
  raises({ site = "resid_pre", layer = 2, pos = -13, from = clean }, "pos -13")
  raises({ site = "resid_pre", layer = 2, pos = { 1, 1 }, from = clean }, "'pos' has 1 twice")
  raises({ site = "resid_pre", layer = 2, pos = { 1, -11 }, from = clean }, "chosen twice")
  raises({ site = "resid_pre", layer = 2, pos = 1.5, from = clean }, "integer")
  raises({ site = "resid_pre", layer = 2, pos = "last", from = clean }, "pos")
  raises({ site = "resid_pre", layer = 2, pos = {}, from = clean }, "empty list")
  raises({ site = "pattern", layer = 2, pos = 1, from = clean }, "head, dest, src")
  raises({ site = "resid_pre", layer = 2, dest = 1, from = clean }, "no dest axis")
  raises({ site = "resid_pre", from = clean }, "every layer")
  raises({ site = "hook_embed", layer = 1, from = clean }, "hook_embed")
  raises({ site = "blocks.1.hook_resid_pre", layer = { 1, 2 }, from = clean }, "names its layer already")
  raises({ site = "resid_pree", layer = 1, from = clean }, "did you mean 'resid_pre'")
  raises({ site = "z", layer = 6, from = clean }, "layer 6")
  raises({ site = "z", layer = { 1, 9 }, from = clean }, "9")
  raises({ layer = 1, value = 0 }, "site")
  raises({ site = {}, layer = 1, value = 0 }, "site")
  raises({ site = "resid_pre", layer = 1, value = pb.zeros(3, 7) }, "[3, 7]", "[12, 128]")
  raises({ site = "resid_pre", layer = 1, value = "big" }, "a number or a tensor")
  raises({ site = "resid_pre", layer = 1, from = 3 }, "must be a run")
  raises({ site = "z", layer = 1, fn = 3 }, "function(act, at)")
  check.raises(function() corrupt:patched "z" end, "list of patches")
  check.raises(function() corrupt:measure({ { layer = 1, value = 0 } }, metric) end, "variant 1", "no 'site'")
  check.raises(function() corrupt:patched { 3 } end, "patch 1", "must be a table, { site = ... }, not the number 3")
  check.raises(function() corrupt:measure({ {}, { { site = "q", layer = 1, head = 7, from = clean } } }, metric) end, "variant 2, patch 1", "head 7")
  check.raises(function() corrupt:measure({ site = "q", layer = 1, from = clean }, metric) end, "one patch")
  check.raises(function() corrupt:measure({ { { site = "resid_post", layer = 5, pos = 3, from = clean } } }, metric) end, "nothing reads the patch", "pos 3")
  check.raises(function() corrupt:measure({ {} }, metric, { memry = 3 }) end, "did you mean 'memory'")
  check.raises(function() corrupt:measure({ {} }, metric, { memory = "lots" }) end, "200 MB")
  check.raises(function() corrupt:measure({ {} }, metric, {}, 3) end, "at most")
  local bare = pb.load((check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques/models/gpt2")
  check.raises(function() corrupt:patched { { site = "z", layer = 1, from = bare:run { 1 }, pos = 0, from_pos = 0 } } end)
end)

check.test("errors say which variant and patch, whatever is wrong with it", function()
  local fine = { site = "z", layer = 1, from = clean }
  local function raises(variant, ...) check.raises(function() corrupt:measure({ { fine }, {}, variant }, metric) end, ...) end
  raises({ fine, { site = "z", layer = 1, form = clean } }, "variant 3, patch 2: ", "unknown field 'form'")
  raises({ fine, { site = "z", layer = 1, from = 3 } }, "variant 3, patch 2: ", "must be a run")
  raises({ fine, { site = "z", layer = 1, pos = "x", from = clean } }, "variant 3, patch 2: ", "pos")
  raises({ fine, { layer = 1, from = clean } }, "variant 3, patch 2: ", "site")
  raises({ fine, 7 }, "variant 3, patch 2: ", "not the number 7")
  raises("z", "variant 3: ", "list of patches")
  raises({ fine, { site = "resid_post", layer = 5, pos = 3, from = clean } }, "variant 3: ", "nothing reads the patch")
  raises({ { site = "z", layer = 1, pos = { 1, 2 }, from_pos = 1, from = clean } }, "variant 3: ", "from_pos lists 1")
  check.raises(function() corrupt:measure({ {}, {} }, metric, { first = 0 }) end, "first")
  check.raises(function() corrupt:measure({ {}, { { site = "resid_post", layer = 5, pos = 3, from = clean } } }, metric, { first = 70 }) end, "variant 71: ")
  check.raises(function() pb.measure { { run = clean, metric = metric }, { run = corrupt, metric = "x" } } end, "variant 2: ", "metric")
  check.raises(function() pb.measure { { run = clean, metric = metric }, { run = 3, metric = metric } } end, "variant 2: ", "run")
  check.raises(function() pb.measure { { run = clean, metric = metric }, 3 } end, "variant 2: ")
  check.raises(function() corrupt:capture({ {}, { { site = "z", layer = 9, value = 0 } } }, "logits") end, "variant 2, patch 1: ", "layer 9")
  -- an error that was caught leaves nothing behind
  pcall(corrupt.measure, corrupt, { { { site = "z", lyer = 1 } } }, metric)
  local text = check.raises(function() pb.zeros("x") end, "'shape'")
  check.ok(not text:find("variant", 1, true), text)
  text = check.raises(function() corrupt:patched { { site = "z", layer = 1, fn = function() pb.zeros("x") end } } end, "'shape'")
  check.ok(not text:find("patch 1", 1, true), text)
end)

check.test("a patch of masked entries is refused, with what is masked", function()
  local backwards = { site = "pattern", layer = 2, head = 1, dest = 3, src = 7, value = 0 }
  check.raises(function() corrupt:patched { backwards } end, "blocks.2.attn.hook_pattern", "dest 3, src 7", "masked", "exchanged")
  check.raises(function() corrupt:measure({ {}, { backwards } }, metric) end, "variant 2: ", "masked")
  check.raises(function() corrupt:patched { { site = "attn_scores", layer = 2, dest = { 0, 1 }, src = { 4, 5 }, value = 0 } } end, "masked")
  check.eq(corrupt:measure({ { backwards } }, metric, { allow_unread = true }):get(0), metric(corrupt))
  -- some of the entries are not masked
  local p = corrupt:patched { { site = "pattern", layer = 2, head = 1, dest = { 3, 8 }, src = 7, value = 0 } }
  check.eq(p:value("pattern", 2):get(1, 8, 7), 0.0)
  -- what looks at the entry itself sees the change, later sites do not
  local seen = corrupt:capture({ { backwards } }, "blocks.2.attn.hook_pattern")[1]["blocks.2.attn.hook_pattern"]
  check.eq(seen:get(1, 3, 7), 0.0)
  check.raises(function() corrupt:capture({ { backwards } }, "blocks.2.attn.hook_z") end, "masked")
end)

check.test("NaN is said, with the place where it began, and the weight if it is one", function()
  check.raises(function() corrupt:measure({ { { site = "z", layer = 2, value = 0 / 0 } } }, metric) end,
               "stop being finite", "in layer 2", "all weights of the layer are finite", "a patch put it there")
  check.raises(function() corrupt:measure({ {}, { { site = "z", layer = 2, pos = 4, value = 0 / 0 } } }, metric) end, "position 4 of variant 2")
  local function broken(name, index, value)
    local weight = model:weight(name):clone()
    index[#index + 1] = value
    weight:set(table.unpack(index))
    return model:with { [name] = weight }
  end
  local function raises(m, ...) check.raises(function() return m:run(clean.tokens) end, ...) end
  raises(broken("transformer.h.3.mlp.c_fc.weight", { 7, 300 }, 0 / 0), "in layer 3", "tensor 'transformer.h.3.mlp.c_fc.weight' of the given weights is NaN at [7, 300]")
  raises(broken("transformer.h.0.attn.c_attn.bias", { 5 }, math.huge), "in layer 0", "tensor 'transformer.h.0.attn.c_attn.bias'", "infinite at [5]")
  raises(broken("transformer.h.5.ln_2.weight", { 127 }, 0 / 0), "in layer 5", "tensor 'transformer.h.5.ln_2.weight'", "NaN at [127]")
  raises(broken("transformer.wpe.weight", { 2, 9 }, 0 / 0), "position 2", "tensor 'transformer.wpe.weight'", "NaN at [2, 9]")
end)

check.test("measure: nothing, plans, memory as text", function()
  check.eq(corrupt:measure({}, metric).shape, { 0 })
  local variants = {}
  for pos = 0, 11 do variants[pos + 1] = { { site = "resid_pre", layer = 2, pos = pos, from = clean } } end
  local plan = corrupt:measure(variants, metric, { dry = true })
  check.eq(plan.variants, 12)
  check.ok(plan.rows < plan.full_rows and plan.flops < plan.full_flops and plan.bytes > 0 and plan.chunks >= 1)
  check.eq(corrupt:measure(variants, metric, { memory = "64 MB" }):tolist(), corrupt:measure(variants, metric):tolist())
  check.raises(function() corrupt:measure(variants, metric, { memory = 1000 }) end, "memory")
end)

check.test("measure and capture fail cleanly when memory does", function()
  local variants = { { { site = "z", layer = 1, from = clean } }, {}, { { site = "mlp_post", layer = 2, neuron = 3, value = 0 } } }
  check.ok(check.exhaust(function() collectgarbage() corrupt:measure(variants, metric):close() end) > 10)
  check.ok(check.exhaust(function() collectgarbage() corrupt:capture(variants, { "logits", "blocks.1.hook_resid_pre" }) end) > 10)
end)

check.test("functions that close what the engine is working on", function()
  local run, source = model:run(clean.tokens), model:run(corrupt.tokens)
  local own
  own = pb.metric.fn(function(logits) own:close() return logits:get(0, 1) end)
  local values = run:measure({ {}, { { site = "z", layer = 1, zero = true } }, { { site = "mlp_out", layer = 1, from = source,
                               }, { site = "mlp_out", layer = 2, fn = function() run:close() source:close() end } } }, own)
  check.ok(values:get(0) ~= values:get(1))
  check.raises(function() return own(clean) end, "closed")
  check.raises(function() return run.tokens end, "closed")

  local other = model:run(clean.tokens)
  check.eq(pb.metric.fn(function() other:close() return 1 end)(other), 1.0)
  local p
  p = corrupt:patched { { site = "z", layer = 1, fn = function() if p then p:close() end end } }
  local live = pcall(function() return p:value("q", 3), p.logits end) -- whatever was computed, nothing breaks
  local q
  q = corrupt:patched { { site = "z", layer = 1, fn = function() if q then q:close() end end } }
  pcall(function() return q:value { site = "result", layer = 1, head = 1 } end)
  local r
  r = corrupt:patched { { site = "z", layer = 1, fn = function() if r then r:close() end end } }
  pcall(function() model:generate { r, tokens = 2 } end)
  check.ok(live ~= nil)
end)
