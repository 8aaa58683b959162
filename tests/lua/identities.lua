-- What must hold bit for bit, on models of both architectures, at every site.
local pb, check = require "patchbay", require "patchbay.check"

local data = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques/models/"
local CLEAN, CORRUPT = { 70, 50, 5, 70, 30, 39, 46 }, { 70, 50, 75, 70, 63, 39, 46 }

local function same(got, wanted, note)
  check.eq(got.shape, wanted.shape, note)
  local a, b = got:tolist(), wanted:tolist()
  for i = 1, #b do
    if a[i] ~= b[i] and not (a[i] ~= a[i] and b[i] ~= b[i]) then
      check.ok(false, ("%s: entry %d is %.9g, expected exactly %.9g"):format(note, i - 1, a[i], b[i]))
    end
  end
end

-- Sites whose whole value, put into the corrupted run, makes it the clean one: everything goes through them.
local CUTS = { resid_pre = true, resid_mid = false, resid_post = true }

for _, name in ipairs { "gpt2", "llama" } do
  local model = pb.load(data .. name)
  local clean = model:run(CLEAN)
  local corrupt = clean:fork(CORRUPT)
  local function test(text, fn) check.test(("identity %s: %s"):format(name, text), fn) end

  test("a fork equals a fresh run, at every site", function()
    local fresh = model:run(CORRUPT)
    for _, site in ipairs(model:sites()) do same(corrupt[site], fresh[site], site) end
  end)

  test("a fork that changes the first token only shares nothing and equals a fresh run", function()
    local other = { 1, table.unpack(CLEAN, 2) }
    same(clean:fork(other).logits, model:run(other).logits, "logits")
  end)

  test("runs made together equal runs made alone, of any lengths", function()
    local prompts = { CLEAN, { 3 }, { 9, 8, 7, 6, 5, 4, 3, 2, 1 }, CORRUPT }
    for i, run in ipairs(model:runs(prompts)) do same(run.logits, model:run(prompts[i]).logits, "prompt " .. i) end
  end)

  test("patching a run with its own values changes nothing, at every site", function()
    local before = clean.logits
    for _, site in ipairs(model:sites()) do
      same(clean:patched({ { site = site, from = clean } }).logits, before, site)
      local own = clean[site]
      same(clean:patched({ { site = site, value = own } }).logits, before, site .. ", as a tensor")
      same(clean:patched({ { site = site, fn = function(act) return act end } }).logits, before, site .. ", by a function")
      same(clean:patched({ { site = site, add = 0 } }).logits, before, site .. ", adding nothing")
      same(clean:patched({ { site = site, scale = 1 } }).logits, before, site .. ", times one")
    end
  end)

  test("the stream patched from clean at all positions gives clean's logits", function()
    for _, site in ipairs(model:sites()) do
      local short = model:site(site).name
      if CUTS[short] then same(corrupt:patched({ { site = site, from = clean } }).logits, clean.logits, site) end
    end
    same(corrupt:patched({ { site = "hook_embed", from = clean } }).logits, clean.logits, "hook_embed")
    same(corrupt:patched({ { site = "resid_mid", layer = model.layers - 1, from = clean } }).logits, clean.logits, "the last resid_mid")
    same(corrupt:patched({ { site = "ln_final.hook_normalized", from = clean } }).logits, clean.logits, "ln_final.hook_normalized")
    same(corrupt:patched({ { site = "logits", from = clean } }).logits, clean.logits, "logits")
  end)

  test("every site patched from clean gives clean's logits, and holds clean's value", function()
    -- ln1 belongs to one copy per head once a head's own input is patched: the engine refuses both in one layer.
    local per_head = { attn_in = true, q_input = true, k_input = true, v_input = true }
    local norms = { ["ln1.hook_scale"] = true, ["ln1.hook_normalized"] = true }
    for _, left_out in ipairs { per_head, norms } do
      local all = {}
      for _, site in ipairs(model:sites()) do
        local short = site:gsub("^blocks%.%d+%.", ""):gsub("^hook_", "")
        if not left_out[short] then all[#all + 1] = { site = site, from = clean } end
      end
      check.ok(#all < #model:sites(), "nothing was left out")
      local patched = corrupt:patched(all)
      same(patched.logits, clean.logits, "logits")
      for _, site in ipairs(model:sites()) do same(patched[site], clean[site], site) end
    end
  end)

  test("a patched site reads back as what was put there", function()
    for _, site in ipairs(model:sites()) do
      same(corrupt:patched({ { site = site, from = clean } })[site], clean[site], site)
    end
  end)

  local metric = pb.metric.logit_diff(79, 30)
  local function variants()
    local list = {}
    for layer = 0, model.layers - 1 do
      for pos = 0, #CLEAN - 1 do
        list[#list + 1] = { { site = "resid_pre", layer = layer, pos = pos, from = clean } }
        list[#list + 1] = { { site = "attn_out", layer = layer, pos = pos, from = clean } }
        list[#list + 1] = { { site = "mlp_post", layer = layer, pos = pos, neuron = { 1, 5 }, value = 0 } }
      end
      for head = 0, model.heads - 1 do
        list[#list + 1] = { { site = "z", layer = layer, head = head, from = clean }, { site = "mlp_out", layer = layer, scale = 0.5 } }
        list[#list + 1] = { { site = "pattern", layer = layer, head = head, dest = -1, from = clean } }
        list[#list + 1] = { { site = "q", layer = layer, head = head, noise = { std = 0.3, seed = 7 } } }
      end
    end
    return list
  end
  local options = { allow_unread = true }

  test("measure gives what patched runs give, variant by variant", function()
    local list = variants()
    local values = corrupt:measure(list, metric, options)
    for i = 1, #list do check.eq(values:get(i - 1), metric(corrupt:patched(list[i])), "variant " .. i) end
  end)

  test("the order of variants does not change a value", function()
    local list, back = variants(), {}
    for i, variant in ipairs(list) do back[#list + 1 - i] = variant end
    local forward, reversed = corrupt:measure(list, metric, options):tolist(), corrupt:measure(back, metric, options):tolist()
    for i = 1, #list do check.eq(reversed[#list + 1 - i], forward[i], "variant " .. i) end
  end)

  test("nor do chunks: all at once, in small ones, one by one", function()
    local list = variants()
    local whole = corrupt:measure(list, metric, options)
    local plan = corrupt:measure(list, metric, { allow_unread = true, dry = true })
    local least
    for _, share in ipairs { 0.5, 0.2, 0.1, 0.05 } do
      local memory = math.floor(plan.bytes * share)
      local ok, small = pcall(corrupt.measure, corrupt, list, metric, { allow_unread = true, dry = true, memory = memory })
      if ok and small.chunks > plan.chunks then
        same(corrupt:measure(list, metric, { allow_unread = true, memory = memory }), whole, small.chunks .. " chunks")
        least = small.chunks
      end
    end
    check.ok(least and least > 1, "no budget made more chunks than one: nothing was tested")
    for i, variant in ipairs(list) do check.eq(corrupt:measure({ variant }, metric, options):get(0), whole:get(i - 1), "alone: " .. i) end
  end)

  test("a cell that cannot reach the metric equals the base, and measure refuses it", function()
    local grid = corrupt:sweep { site = "resid_pre", over = { "layer", "pos" }, from = clean, metric = pb.metric.logit(79, { pos = 1 }) }
    for pos = 2, #CLEAN - 1 do check.eq(grid:get { layer = 1, pos = pos }, grid.base, "pos " .. pos) end
    check.raises(function()
      corrupt:measure({ { { site = "resid_pre", layer = 1, pos = 4, from = clean } } }, pb.metric.logit(79, { pos = 1 }))
    end, "nothing reads the patch at 'blocks.1.hook_resid_pre' at pos 4")
  end)

  test("a patch before the first difference is a no-op", function()
    local grid = corrupt:sweep { site = "resid_pre", over = { "layer", "pos" }, from = clean, metric = metric }
    for layer = 0, model.layers - 1 do
      for pos = 0, 1 do check.eq(grid:get { layer = layer, pos = pos }, grid.base) end
    end
    check.eq(grid.base, metric(corrupt))
    check.eq(grid.target, metric(clean))
  end)

  test("the same draw gives the same noise in every variant, layer and place", function()
    local noise = { std = 0.5, seed = 3, draw = 2, replace = true }
    local a = clean:patched { { site = "resid_post", layer = 0, noise = noise } }:value("resid_post", 0)
    local b = corrupt:patched { { site = "resid_post", layer = 1, pos = { 2, 4 }, noise = noise } }:value("resid_post", 1)
    same(b:index(0, { 2, 4 }), a:index(0, { 2, 4 }), "noise")
  end)

  test("captured values are those of the patched run", function()
    local list = { { { site = "resid_pre", layer = 1, pos = 2, from = clean } }, { { site = "z", layer = 0, head = 1, value = 0 } } }
    local sites = { "blocks.1.hook_resid_post", "blocks.2.attn.hook_pattern", "logits" }
    for i, captured in ipairs(corrupt:capture(list, sites)) do
      local patched = corrupt:patched(list[i])
      for _, site in ipairs(sites) do same(captured[site], patched[site], site) end
    end
  end)
end
