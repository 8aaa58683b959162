-- Patching under TransformerLens's names, against its arrays (golden/techniques/patching and facts/patching), and its identities.
local pb, check = require "patchbay", require "patchbay.check"
local patching, data, tasks = require "patchbay.patching", require "patchbay.data", require "patchbay.tasks"

local golden = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques"

local function gap_of(got, wanted, name)
  check.eq(got.shape, wanted.shape, name)
  local worst, flat = 0, wanted:tolist()
  for i, x in ipairs(got:tolist()) do
    local gap = math.abs(x - flat[i])
    if not (gap <= worst) then worst = gap end
  end
  return worst
end

-- The golden's site and form -> the function's name.
local FORMS = { by_pos = "_by_pos", all_pos = "_all_pos", dest_src = "_dest_src_pos", dest_src_pos = "_dest_src_pos" }
local HEADS = { z = "out", q = "q", k = "k", v = "v", pattern = "pattern" }

local function name_of(rest)
  local site, form = rest:match "^([%w_]+)%.([%w_]+)$"
  if not site then return rest end
  if site == "every" then return ({ block = "block_every", head_all_pos = "attn_head_all_pos_every", head_by_pos = "attn_head_by_pos_every" })[form] end
  return HEADS[site] and FORMS[form] and "attn_head_" .. HEADS[site] .. FORMS[form]
end

local function test_case(label)
  local folder = golden .. "/patching/" .. label
  local case, expected = pb.read(folder .. "/case.json"), pb.read(folder .. "/expected.safetensors")
  local model, inputs = pb.load(golden .. "/models/" .. label), case.inputs
  local set = pb.pairs(model, { { clean = inputs.clean, corrupt = inputs.corrupt, answer = inputs.answer, wrong = inputs.wrong } })
  local seen = {}
  for name, about in pairs(case.arrays) do
    local direction, metric, rest = name:match "^(%w+)%.([%w_]+)%.(.+)$"
    local fn = direction ~= "base" and rest and name_of(rest)
    if fn then
      seen[fn] = true
      check.test(("golden patching.%s, %s: %s"):format(fn, label, name), function()
        local got = patching["get_act_patch_" .. fn](set, metric, { direction = direction == "noise" and "noising" or "denoising" })
        if #got == 0 then
          check.ok(gap_of(got.values, expected[name], name) <= about.tolerance, name)
          return
        end
        for i, grid in ipairs(got) do
          local wanted = expected[name]:select(0, i - 1)
          local values = grid.values
          if grid.axes[#grid.axes] == "dest" then values = values:transpose(1, 2) end -- [layer, head, dest] stands as [layer, pos, head]
          local axis, heads = values.ndim - 1, values.shape[values.ndim]
          if heads < wanted.shape[values.ndim] then wanted = wanted:narrow(axis, 0, heads) end -- the peer pads key-value heads with zeros
          check.ok(gap_of(values:contiguous(), wanted, name) <= about.tolerance, ("%s, part %d"):format(name, i))
        end
      end)
    end
  end
  check.test("golden patching " .. label .. ": every function has an array", function()
    for _, fn in ipairs { "resid_pre", "resid_mid", "attn_out", "mlp_out", "attn_head_out_by_pos", "attn_head_q_by_pos", "attn_head_k_by_pos",
                          "attn_head_v_by_pos", "attn_head_out_all_pos", "attn_head_q_all_pos", "attn_head_k_all_pos", "attn_head_v_all_pos",
                          "attn_head_pattern_by_pos", "attn_head_pattern_dest_src_pos", "attn_head_pattern_all_pos", "block_every",
                          "attn_head_all_pos_every", "attn_head_by_pos_every" } do
      check.ok(seen[fn], fn)
    end
  end)
end

test_case "gpt2"
test_case "llama"

-- ---- three facts of the built-in model -------------------------------------------------------------------------------------------

local case, expected = pb.read(golden .. "/facts/patching/case.json"), pb.read(golden .. "/facts/patching/expected.safetensors")
local model = pb.load "facts"

for name, about in pairs(case.arrays) do
  check.test("golden patching, facts: " .. name, function()
    local number, rest = name:match "^(%d)%.(.+)$"
    local input = case.inputs.pairs[tonumber(number) + 1]
    local set = pb.pairs(model, { { clean = input.clean, corrupt = input.corrupt, answer = input.answer, wrong = input.wrong } })
    local run, base_metric = rest:match "^base%.(%w+)%.([%w_]+)$"
    if run then
      check.close(set:measure(base_metric, run):get(0), expected[name]:item(), about.tolerance)
      return
    end
    local metric, what = rest:match "^([%w_]-)%.(.+)$"
    local site = what:match "^(%w+)_window$"
    local values
    if site then
      values = patching[site .. "_out"](set, metric, { window = 3 }).values:transpose(0, 1):contiguous()
    else
      values = patching[name_of(what)](set, metric).values
    end
    local gap = gap_of(values, expected[name], name)
    check.ok(gap <= about.tolerance, ("differs by %.3g, tolerance %.3g"):format(gap, about.tolerance))
  end)
end

-- ---- identities and searches -------------------------------------------------------------------------------------------------------

local ioi = tasks.ioi(model, { n = 12, seed = 1 })

check.test("patching: a set from one prompt and its complement from the other: the same from both sides", function()
  -- Everything that writes into the stream, cut in two halves. Clean values in one half and corrupted ones in the other make one and the
  -- same computation, whichever of the two runs is the one that is patched.
  local halves = { { { site = "hook_embed" } }, { { site = "hook_pos_embed" } } }
  for layer = 0, model.layers - 1 do
    for head = 0, model.heads - 1 do table.insert(halves[(layer + head) % 2 + 1], { site = "z", layer = layer, head = head }) end
    table.insert(halves[layer % 3 == 0 and 1 or 2], { site = "mlp_out", layer = layer })
  end
  local requests = {}
  for i = 1, #ioi do
    local pair, positions = ioi[i], {}
    for pos = 0, #pair.clean - 1 do positions[pos + 1] = pos end
    for _, base in ipairs { "clean", "corrupt" } do
      local patches = {}
      for half, from in ipairs { "clean", "corrupt" } do
        for _, place in ipairs(halves[half]) do
          patches[#patches + 1] = { site = place.site, layer = place.layer, head = place.head, pos = positions, from = pair[from], from_pos = positions }
        end
      end
      requests[#requests + 1] = { run = pair[base], patches = patches, metric = ioi:metric("logit_diff", i) }
    end
  end
  local values, moved = pb.measure(requests, { allow_unread = true }):tolist(), 0
  for i = 1, #ioi do
    check.close(values[2 * i - 1], values[2 * i], 1e-4, "pair " .. i)
    moved = moved + math.abs(values[2 * i] - ioi:metric("logit_diff", i)(ioi[i].corrupt))
  end
  check.ok(moved > 1, "the halves move nothing")
end)

check.test("patching: a group of everything recovers everything, an empty one nothing", function()
  local all = { { site = "hook_embed" } }
  local grid = patching.groups(ioi, "logit_diff", { all, {} })
  check.close(grid.values:get(0), grid.target, 1e-6)
  check.close(grid.values:get(1), grid.base, 1e-6)
end)

check.test("patching: a group of one is the cell of the sweep; positions by name", function()
  local sweep = patching.attn_head_out_all_pos(ioi, "logit_diff")
  local groups = patching.groups(ioi, "logit_diff", { { { site = "z", layer = 2, head = 3 } }, { { site = "z", layer = 2, head = 3, pos = "end" } } })
  check.close(groups.values:get(0), sweep:get { layer = 2, head = 3 }, 1e-6)
  local at_end = patching.attn_head_out_by_pos(ioi, "logit_diff", { pos = { "end" }, layer = { 2 }, head = { 3 } })
  check.close(groups.values:get(1), at_end.values:item(), 1e-6)
end)

check.test("patching: the heads that move the name, as the README says", function()
  local cells = patching.attn_head_out_all_pos(ioi, "logit_diff"):recovered():top(3)
  local names, wanted = {}, { 0.57, 0.15, 0.14 }
  for i, cell in ipairs(cells) do
    names[i] = ("%d.%d"):format(cell.layer, cell.head)
    check.close(cell.value, wanted[i], 4 * cell.se + 0.02, names[i])
  end
  check.eq(names[1], "2.3")
  table.sort(names)
  check.eq(names, { "2.3", "3.2", "4.3" })
end)

check.test("patching: greedy finds a small set that restores the share, and says when it cannot", function()
  local heads = {}
  for _, place in ipairs(patching.components(model)) do
    if place.head then heads[#heads + 1] = place end
  end
  local found = patching.greedy(ioi, "logit_diff", { candidates = heads, share = 0.8 })
  check.ok(found.reached and found.recovered >= 0.8)
  check.eq(found[1].name, "2.3")
  check.ok(#found <= 5, #found .. " heads")
  local again = patching.groups(ioi, "logit_diff", { found }):recovered().values:get(0)
  check.close(again, found.recovered, 1e-6)
  for k = 1, #found do
    local less = {}
    for j, place in ipairs(found) do
      if j ~= k then less[#less + 1] = place end
    end
    check.ok(patching.groups(ioi, "logit_diff", { less }):recovered().values:get(0) < 0.8, "without " .. found[k].name .. " it is enough too")
  end
  local short = patching.greedy(ioi, "logit_diff", { candidates = heads, share = 0.8, most = 1 })
  check.eq({ #short, short.reached }, { 1, false })
end)

check.test("patching: groups and greedy say what was wrong; a place alone is a group of one", function()
  local place = { site = "z", layer = 2, head = 3 }
  check.eq(patching.groups(ioi, "logit_diff", { place }).values, patching.groups(ioi, "logit_diff", { { place } }).values)
  check.raises(function() patching.groups(ioi, "logit_diff", { { { site = "z", layr = 2, head = 3 } } }) end, "group 1, place 1", "did you mean 'layer'")
  check.raises(function() patching.groups(ioi, "logit_diff", { { place, { layer = 2, head = 3 } } }) end, "place 2 has no site")
  check.raises(function() patching.groups(ioi, "logit_diff", { "2.3" }) end, "group 1 must be a list of places")
  check.raises(function() patching.groups(ioi, "logit_diff", {}) end, "list of groups")
  for _, wrong in ipairs { { share = 0 }, { share = "all" }, { most = 0 }, { candidates = {} }, { candidates = { { site = "z", layer = 2, hed = 3 } } } } do
    check.raises(function() patching.greedy(ioi, "logit_diff", wrong) end, "patching.g")
  end
end)

check.test("patching: a window is the layers around each together; one wider than the model is refused", function()
  local grid = patching.mlp_out(ioi, "logit_diff", { window = 3, pos = { "S2" } })
  local group = {}
  for layer = 1, 3 do group[#group + 1] = { site = "mlp_out", layer = layer, pos = "S2" } end
  check.close((grid:get { layer = 2, pos = "S2" }), patching.groups(ioi, "logit_diff", { group }).values:item(), 1e-5)
  check.raises(function() patching.mlp_out(ioi, "logit_diff", { window = 7, pos = { "S2" } }) end, "wider than the model, which has 6")
  check.raises(function() patching.mlp_out(ioi, "logit_diff", { window = 0, pos = { "S2" } }) end, "window must be a positive number")
end)

check.test("patching: pairs of different length are swept by the names that all of them have", function()
  local set = data.facts(model, "facts", { n = 15, seed = 1, quiet = true }):pairs { seed = 1, quiet = true }
  local share = patching.resid_pre(set, "logit_diff"):recovered()
  check.eq(share.labels.pos, { "subject", "subject_last", "after", "end" })
  check.ok(share:get { layer = 3, pos = "subject_last" } > 0.9)
  check.ok(share:get { layer = 5, pos = "end" } > 0.4)
  local unnamed = pb.pairs(model, { { clean = { 1, 2, 3 }, corrupt = { 1, 2, 4 }, answer = 5, wrong = 6 }, { clean = { 1, 2 }, corrupt = { 1, 4 }, answer = 5, wrong = 6 } })
  check.raises(function() patching.resid_pre(unnamed, "logit_diff") end, "different lengths", "pos = ")
end)

check.test("patching: neurons, runs without a set, and what is refused", function()
  local one = { clean = ioi[1].clean, corrupt = ioi[1].corrupt, answer = ioi[1].answer, wrong = ioi[1].wrong }
  local grid = patching.neurons(one, "logit_diff", { layer = { 3 }, neuron = { 0, 7 } })
  check.eq(grid.values.shape, { 1, 2 })
  local patched = one.corrupt:patched { { site = "mlp_post", layer = 3, neuron = 7, from = one.clean } }
  check.eq(grid:get { layer = 3, neuron = 7 }, pb.metric.logit_diff(one.answer, one.wrong)(patched))
  check.raises(function() return patching.resid_prex end, "no function 'resid_prex'")
  check.raises(function() patching.resid_pre(model, "logit_diff") end, "set of pairs")
  check.raises(function() patching.resid_pre(ioi, "logit_diff", { direction = "sideways" }) end, "direction")
  check.raises(function() patching.resid_pre(ioi, "logit_diff", { windw = 2 }) end, "did you mean 'window'")
  check.raises(function() patching.resid_pre(ioi, "logit_diff", { window = 7 }) end, "wider than the model")
  check.raises(function() patching.groups(ioi, "logit_diff", {}) end, "list of groups")
end)

check.test("patching: stacks draw as panels", function()
  local stack = patching.block_every({ clean = ioi[1].clean, corrupt = ioi[1].corrupt, answer = ioi[1].answer, wrong = ioi[1].wrong }, "logit_diff")
  check.eq({ #stack, stack[1].name, stack[3].name }, { 3, "resid_pre", "mlp_out" })
  check.eq(#pb.plot.panels(stack), 3)
end)
