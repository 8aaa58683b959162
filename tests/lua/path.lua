-- Path patching: every array of golden/techniques/path, identities, and what bad input gets.
local pb, check = require "patchbay", require "patchbay.check"
local path = require "patchbay.path"

local data = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques/"
local POSITIONS = { 0, 1, 2, 3, 4, 5, 6 }

local function open(name)
  local case, expected = pb.read(data .. name .. "/case.json"), pb.read(data .. name .. "/expected.safetensors")
  local inputs, model = case.inputs, pb.load(data .. case.model)
  local set = pb.pairs(model, { { clean = inputs.clean, corrupt = inputs.corrupt, answer = inputs.answer, wrong = inputs.wrong } })
  return { case = case, expected = expected, set = set, model = model, checked = {} }
end

local function compare(c, name, values)
  local wanted, about = c.expected[name], c.case.arrays[name]
  local got = values:reshape(wanted.shape)
  local gap = got:max_difference(wanted)
  check.ok(gap <= about.tolerance, ("%s differs by %.3g, tolerance %.3g"):format(name, gap, about.tolerance))
  c.checked[name] = true
end

local c = open "path/gpt2"

-- One array by both methods (or one of them): the peer's direct form is mlps = "frozen".
local function array(name, spec, only)
  for prefix, mlps in pairs { mlps = "live", direct = "frozen" } do
    if not only or only == prefix then
      check.test(("golden path: %s.%s"):format(prefix, name), function()
        local own = { mlps = mlps, direction = "noising", metric = "logit_diff" }
        for key, value in pairs(spec) do own[key] = value end
        compare(c, prefix .. "." .. name, path.sweep(c.set, own).values)
      end)
    end
  end
end

local LOGITS = { site = "logits" }
local HEAD, LAYER = { layer = 2, head = 1 }, { layer = 2 }
local function with(node, site)
  local own = { site = site }
  for key, value in pairs(node) do own[key] = value end
  return own
end
local SENDER = { { site = "z", layer = 0, head = 2 } }
local SOME = { { { site = "z", layer = 0, head = 1 }, { site = "z", layer = 1, head = 2 }, { site = "mlp_out", layer = 0 }, name = "some" } }
local RECEIVERS = { { site = "q", layer = 2, head = 0 }, { site = "k", layer = 2, head = 2 }, { site = "v", layer = 2, head = 1 } }

array("heads_to_logits", { senders = "heads", receiver = LOGITS })
array("heads_by_pos_to_logits", { senders = { site = "z", over = { "pos", "layer", "head" }, pos = POSITIONS }, receiver = LOGITS })
array("mlp_out_to_logits", { senders = "mlps", receiver = "logits" })
array("attn_out_to_logits", { senders = "attns", receiver = LOGITS })
array("resid_pre_to_logits", { senders = { site = "resid_pre", over = { "layer" } }, receiver = LOGITS })
for _, part in ipairs { "q", "k", "v", "pattern" } do
  array(("heads_to_%s_of_head"):format(part), { senders = "heads", receiver = with(HEAD, part) })
end
array("heads_to_q_of_layer", { senders = "heads", receiver = with(LAYER, "q") })
array("mlps_to_head_v", { senders = "mlps", receiver = with(HEAD, "v") })
for _, part in ipairs { "q", "k", "v" } do
  array("head_0.2_to_" .. part, { senders = SENDER, receivers = { site = part, over = { "layer", "head" } } })
end
for _, part in ipairs { "resid_pre", "resid_mid", "resid_post" } do
  array("head_0.2_to_" .. part, { senders = SENDER, receivers = { site = part, over = { "layer" } } })
end
array("head_0.2_to_pre", { senders = SENDER, receivers = { site = "mlp_pre", over = { "layer", "neuron" } } }, "mlps")

-- The peer freezes every hook whose name ends in "post", and so hook_resid_post too: nothing gets from one layer to the next, and
-- rows 1 and 2 are the clean metric. Row 0 is compared; the others with the direct edge by hand, the difference added to mlp_in.
check.test("golden path: direct.head_0.2_to_pre, where the peer is right, and by hand elsewhere", function()
  local name, run, other = "direct.head_0.2_to_pre", c.set[1].clean, c.set[1].corrupt
  local wanted, tolerance, metric = c.expected[name], c.case.arrays[name].tolerance, c.set:metric("logit_diff", 1)
  local grid = path.sweep(c.set, { senders = SENDER, receivers = { site = "mlp_pre", over = { "layer", "neuron" } }, mlps = "frozen", direction = "noising" })
  check.close(grid.values:select(0, 0), wanted:select(0, 0), tolerance)
  check.close({ wanted:narrow(0, 1, 2):min(), wanted:narrow(0, 1, 2):max() }, { metric(run), metric(run) }, tolerance, "the peer's rows 1 and 2")
  local delta = (other:value("result", 0) - run:value("result", 0)):select(1, 2)
  for layer = 1, 2 do
    local pre = ("blocks.%d.mlp.hook_pre"):format(layer)
    local moved, variants = run:patched { { site = "mlp_in", layer = layer, add = delta } }[pre], {}
    for k = 0, 63 do variants[k + 1] = { { site = pre, neuron = k, value = moved:narrow(1, k, 1) } } end
    check.close(grid.values:select(0, layer), run:measure(variants, metric), tolerance, "layer " .. layer)
  end
  c.checked[name] = true
end)
array("neurons_to_logits", { senders = "neurons", receiver = LOGITS })
array("some_to_some", { senders = SOME, receiver = RECEIVERS })
array("some_to_some_at_4", { senders = SOME, receiver = RECEIVERS, pos = 4 })
array("some_to_some_at_3_5", { senders = SOME, receiver = RECEIVERS, pos = { 3, 5 } })
array("some_to_logits_at_last", { senders = SOME, receiver = LOGITS, pos = "end" })
array("zero.heads_to_logits", { senders = "heads", receiver = LOGITS, new = "zero" })

check.test("golden path: what the case holds besides", function()
  for _, side in ipairs { "clean", "corrupt" } do
    for _, metric in ipairs { "logit_diff", "prob" } do compare(c, ("base.%s.%s"):format(side, metric), c.set:measure(metric, side)) end
  end
  for _, site in ipairs { "z", "mlp_out", "attn_out" } do
    local over = site == "z" and { "layer", "head" } or { "layer" }
    compare(c, "act_patch." .. site, c.set:sweep({ site = site, over = over, metric = "logit_diff", direction = "noising" }).values)
  end
  for name in pairs(c.expected) do check.ok(c.checked[name], name .. " was not compared") end
end)

local d = open "path/direct"
for _, part in ipairs { "q", "k", "v" } do
  for form, norms in pairs { exact = "live", linear = "frozen" } do
    check.test(("golden path: direct edges into %s, %s"):format(part, form), function()
      local grid = path.sweep(d.set, { senders = "heads", receivers = { site = part, over = { "layer", "head" } }, mlps = "frozen", norms = norms })
      check.eq(grid.axes, { "layer", "head", "receiver_layer", "receiver_head" })
      compare(d, form .. "." .. part, grid.values)
    end)
  end
end

-- ---- identities ------------------------------------------------------------------------------------------------------------------------

local function everything_before(layers, model)
  local group = { name = "everything", { site = "embed" } }
  if pcall(model.site, model, "pos_embed") then group[2] = { site = "pos_embed" } end
  for layer = 0, layers - 1 do
    for head = 0, model.heads - 1 do group[#group + 1] = { site = "z", layer = layer, head = head } end
    group[#group + 1] = { site = "mlp", layer = layer }
  end
  return { group }
end

for _, name in ipairs { "gpt2", "llama" } do
  local case = pb.read(data .. "lens/" .. name .. "/case.json").inputs
  local model = pb.load(data .. "models/" .. name)
  local set = pb.pairs(model, { { clean = case.clean, corrupt = case.corrupt, answer = case.answer, wrong = case.wrong, positions = { changed = 2 } } })
  local kv = model.heads // model.kv_heads

  for _, mlps in ipairs { "live", "frozen" } do
    check.test(("path identity %s: all senders together are activation patching of the receiver, MLPs %s"):format(name, mlps), function()
      for _, part in ipairs { "q", "k", "v" } do
        local n = model:site(part).heads
        local patched = set:sweep { site = part, over = { "layer", "head" }, layer = { 2 }, metric = "logit_diff" }
        local grid = path.sweep(set, { senders = everything_before(2, model), receivers = { site = part, over = { "head" }, layer = 2 }, mlps = mlps })
        check.eq(grid.axes, { "head" })
        for head = 0, n - 1 do
          check.close(grid:get { head = head }, (patched:get { layer = 2, head = head }), 1e-4, part .. head)
        end
        check.close({ grid.base, grid.target }, { patched.base, patched.target }, 1e-6)
      end
      local all = path.sweep(set, { senders = everything_before(3, model), receiver = "logits", mlps = mlps }):recovered()
      check.close(all.values:item(), 1, 1e-5, "to the logits")
    end)
  end

  check.test(("path identity %s: with all norms frozen, direct edges to the logits add up"):format(name), function()
    local options = { receiver = "logits", mlps = "frozen", norms = "frozen" }
    local function change(senders)
      options.senders = senders
      return path.sweep(set, options):change().values:sum()
    end
    local parts = change "heads" + change "mlps" + change { { site = "embed" } }
    check.close(parts, change(everything_before(3, model)), 1e-4)
  end)

  check.test(("path identity %s: a chain of direct edges is what patched runs say by hand"):format(name), function()
    local run, other = set[1].corrupt, set[1].clean
    local grid = path.chain(set, { { layer = 0, head = 2 }, { site = "v", layer = 1, head = 1 // kv }, "logits" }, { mlps = "frozen" })
    local delta = (other:value("result", 0) - run:value("result", 0)):narrow(1, 2, 1)
    local v = run:patched { { site = "v_input", layer = 1, add = delta } }:value("v", 1):narrow(1, 1 // kv, 1)
    local moved = run:patched { { site = "v", layer = 1, head = 1 // kv, value = v } }
    local difference = (moved:value("attn_out", 1) - run:value("attn_out", 1))
    local by_hand = set:metric("logit_diff", 1)(run:patched { { site = "resid_post", layer = 2, add = difference } })
    check.close(grid.values:item(), by_hand, 1e-4)
    check.ok(math.abs(by_hand - grid.base) > 1e-3, "the chain does nothing: nothing was tested")
  end)

  check.test(("path identity %s: zero in a chain; what nothing reaches is the base, bit for bit"):format(name), function()
    local grid = path.sweep(set, { senders = "heads", receiver = { site = "q", layer = 1 } })
    for head = 0, model.heads - 1 do
      check.eq((grid:get { layer = 1, head = head }), grid.base)
      check.eq((grid:get { layer = 2, head = head }), grid.base)
    end
    local late = path.sweep(set, { senders = "heads", receiver = "logits", pos = "changed" })
    check.eq(late.values:max(), late.base, "before the last position nothing reaches the logits")
  end)

  check.test(("path identity %s: heads of queries as receivers mean the key-value head that they share"):format(name), function()
    local cells = { { layer = 2, head = 3, value = 1 }, { 1, 0 } }
    local by_cells = path.sweep(set, { senders = { { site = "mlp", layer = 0 }, { site = "attn", layer = 0 } }, receiver = { site = "k", heads = cells } })
    local by_hand = path.sweep(set, { senders = { { site = "mlp", layer = 0 }, { site = "attn", layer = 0 } },
                                      receiver = { { site = "k", layer = 2, head = 3 // kv }, { site = "k", layer = 1, head = 0 } } })
    check.eq(by_cells.values, by_hand.values)
    check.eq(by_cells.labels.sender, { "mlp 0", "attn 0" })
  end)

  check.test(("path identity %s: q, k and v as senders with all else held are the head's output"):format(name), function()
    -- the sender's own output changes as its inputs say: the direct edge of z then differs from that of q alone
    local q = path.sweep(set, { senders = { { site = "q", layer = 1, head = 1 } }, receiver = "logits", mlps = "frozen" })
    local run, other = set[1].corrupt, set[1].clean
    local z = run:patched { { site = "q", layer = 1, head = 1, from = other } }:value("z", 1)
    local by_hand = run:patched { { site = "z", layer = 1, head = 1, value = z:narrow(1, 1, 1) } }
    local delta = by_hand:value("attn_out", 1) - run:value("attn_out", 1)
    check.close(q.values:item(), set:metric("logit_diff", 1)(run:patched { { site = "resid_post", layer = 2, add = delta } }), 1e-4)
  end)
end

check.test("path: several pairs give the mean, each with its own positions", function()
  local inputs = c.case.inputs
  local pairs_of = {
    { clean = inputs.clean, corrupt = inputs.corrupt, answer = inputs.answer, wrong = inputs.wrong, positions = { here = { 2, 4 } } },
    { clean = { 1, 2, 3, 4, 5 }, corrupt = { 1, 9, 3, 4, 5 }, answer = 7, wrong = 8, positions = { here = 1 } },
  }
  local set = pb.pairs(c.model, pairs_of)
  local both = path.sweep(set, { senders = "heads", receiver = { site = "v", layer = 2 }, pos = "here" })
  for i = 1, 2 do
    local alone = path.sweep(pb.pairs(c.model, { pairs_of[i] }), { senders = "heads", receiver = { site = "v", layer = 2 }, pos = pairs_of[i].positions.here })
    check.close(both.parts[i].values, alone.values, 1e-6)
  end
  check.ok(both.se, "there is no standard error")
end)

-- ---- what bad input gets --------------------------------------------------------------------------------------------------------------

check.test("path: errors say what was wrong", function()
  local function fails(spec, ...) check.raises(function() path.sweep(c.set, spec) end, ...) end
  fails({ senders = { { layer = 2, head = 1 } }, receiver = { site = "q", layer = 1 } }, "no sender comes before a receiver")
  fails({ senders = "heads" }, "needs receiver")
  fails({ senders = "heads", receiver = "logits", receivers = "heads" }, "needs receiver")
  fails({ senders = "head", receiver = "logits" }, "senders must be")
  fails({ senders = {}, receiver = "logits" }, "the list of senders is empty")
  fails({ receiver = "logits" }, "senders is missing")
  fails({ senders = "heads", receiver = { site = "qq", layer = 1 } }, "qq")
  fails({ senders = "heads", receiver = { site = "q", head = 1 } }, "needs a layer")
  fails({ senders = "heads", receiver = { layer = 1, head = 1 } }, "needs a site")
  fails({ senders = "heads", receiver = { site = "q", layer = 3 } }, "the layers are 0 to 2")
  fails({ senders = "heads", receiver = { site = "q", layer = 1, heads = 4, hed = 1 } }, "hed")
  fails({ senders = "heads", receiver = "logits", pos = 7 }, "position 7 is not in a prompt of 7 tokens")
  fails({ senders = "heads", receiver = "logits", pos = "subject" }, "subject")
  fails({ senders = "heads", receiver = "logits", mlp = "live" }, "mlp")
  fails({ senders = "heads", receiver = "logits", mlps = "dead" }, "mlps must be one of live, frozen")
  check.raises(function() path.sweep({}, { senders = "heads", receiver = "logits" }) end, "must be a set of pairs")
  check.raises(function() path.chain(c.set, { "logits" }) end, "at least two nodes")
  -- a receiver before its sender, at the first step and on the way
  check.raises(function() path.chain(c.set, { { layer = 2, head = 0 }, { site = "k", layer = 1, head = 1 }, "logits" }) end, "node 2 of the way", "no path exists")
  check.raises(function() path.chain(c.set, { { layer = 0, head = 0 }, { site = "k", layer = 2, head = 1 }, { site = "mlp", layer = 1 }, "logits" }) end, "node 3 of the way")
  check.raises(function() path.chain(c.set, { { layer = 2, head = 0 }, { site = "q", layer = 2, head = 1 }, "logits" }) end, "no path exists")
end)

check.test("path: components are the embeddings, heads and MLPs, each as it is alone", function()
  local all = path.sweep(c.set, { senders = "components", receiver = "logits", mlps = "frozen" })
  check.eq({ all.labels.sender[1], all.labels.sender[2], all.labels.sender[3], all.labels.sender[7] }, { "embed", "pos_embed", "0.0", "MLP 0" })
  check.eq(#all.labels.sender, 2 + 3 * 5)
  local heads = path.sweep(c.set, { senders = "heads", receiver = "logits", mlps = "frozen" })
  check.eq((all:get { sender = 2 + 5 + 3 }), (heads:get { layer = 1, head = 3 }))
end)
