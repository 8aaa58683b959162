-- The section "What is visible in it" of the built-in model's README: every figure of it, to its digits, from the recipe that measures it
-- again with the techniques (the same facts, pairs and sequences, and the same noise, number for number).
local pb, check = require "patchbay", require "patchbay.check"

-- What rounds to these digits, within the 0.001 by which the README's weights (before they were stored in 16 bits) may differ.
local function rounds_to(value, wanted, digits, what)
  check.close(value, wanted, 0.5 * 10.0 ^ -digits + 0.001, what)
end

local found

check.test("visible: the recipe runs", function()
  local weak = setmetatable({}, { __mode = "k" })
  weak[{}] = true
  pb.zeros(1):close()
  if next(weak) == nil then check.skip "the collector is stressed" end
  if check.environment "UBSAN_OPTIONS" then check.skip "200,000 traces take too long under sanitizers" end
  local out = check.output_folder() .. "/visible"
  local result = check.recipe { file = "examples/facts/visible.lua", output = out, gc_stress = false }
  check.ok(result.ok, result.message)
  found = pb.read(out .. "/visible.json")
end)

local function test(name, fn)
  check.test("visible: " .. name, function()
    if not found then check.skip "the recipe did not run" end
    fn()
  end)
end

-- The names of the k largest entries.
local function largest(list, k)
  local names = {}
  for name in pairs(list) do names[#names + 1] = name end
  table.sort(names, function(a, b) return list[a] > list[b] end)
  return { table.unpack(names, 1, k) }
end

test("previous-token heads 1.2, 1.3, 1.0 (0.84, 0.84, 0.83), 1.1 (0.57)", function()
  check.eq(largest(found.previous, 4), { "1.2", "1.3", "1.0", "1.1" })
  for head, wanted in pairs { ["1.2"] = .84, ["1.3"] = .84, ["1.0"] = .83, ["1.1"] = .57 } do rounds_to(found.previous[head], wanted, 2, head) end
end)

test("all four heads of layer 2 attend to the second token after, with 0.87 to 0.90; offset one finds 5.0 with 0.07", function()
  local top = largest(found.offset[3], 4)
  rounds_to(found.offset[3][top[1]], .90, 2, top[1])
  rounds_to(found.offset[3][top[4]], .87, 2, top[4])
  table.sort(top)
  check.eq(top, { "2.0", "2.1", "2.2", "2.3" })
  check.eq(largest(found.offset[2], 1), { "5.0" })
  rounds_to(found.offset[2]["5.0"], .07, 2)
end)

test("indirect objects: logit difference, attribution to heads and MLPs", function()
  local ioi = found.ioi
  check.eq(ioi.pairs, 369)
  rounds_to(ioi.clean, 7.13, 2, "clean")
  rounds_to(ioi.corrupt, -7.30, 2, "second subject swapped")
  check.eq(largest(ioi.attribution, 4), { "2.3", "4.3", "3.2", "2.2" })
  for head, wanted in pairs { ["2.3"] = 2.80, ["4.3"] = .90, ["3.2"] = .76, ["2.2"] = .39 } do rounds_to(ioi.attribution[head], wanted, 2, head) end
  rounds_to(ioi.mlps[5], .95, 2, "MLP 4")
  rounds_to(ioi.mlps[6], .85, 2, "MLP 5")
end)

test("indirect objects: what heads recover, 57, 15, 14 and 8 %, and where they look", function()
  local ioi = found.ioi
  check.eq(largest(ioi.patched, 4), { "2.3", "4.3", "3.2", "2.2" })
  for head, wanted in pairs { ["2.3"] = .57, ["4.3"] = .15, ["3.2"] = .14, ["2.2"] = .08 } do rounds_to(ioi.patched[head], wanted, 2, head) end
  for head, wanted in pairs { ["2.3"] = .93, ["4.3"] = .88, ["3.2"] = .82 } do rounds_to(ioi.to_s2[head], wanted, 2, head .. " to the second mention") end
  rounds_to(ioi.to_io[largest(ioi.to_io, 1)[1]], .03, 2, "largest attention to the indirect object")
end)

test("causal tracing: the whole table", function()
  local trace = found.trace
  check.eq(trace.facts, 100)
  rounds_to(trace.sigma, .113, 3, "sigma")
  rounds_to(trace.high, .969, 3, "clean")
  rounds_to(trace.low, .071, 3, "noised")
  local none = { .00, .00, .00, .00, .00, .00 }
  local wanted = {
    block = { { .02, .01, .01, .01, .00, .00 }, { .02, .01, .01, .01, .00, .00 }, { .50, .63, .70, .74, .23, .00 }, none, none, { .01, .01, .02, .03, .77, .90 } },
    mlp   = { { .01, .02, .00, .00, .00, .00 }, { .01, .02, .01, .01, .00, .00 }, { .47, .54, .28, .21, .08, .01 }, none, none, { .01, .01, .01, .05, .25, .25 } },
    attn  = { none, { .01, .01, .00, .00, .00, .00 }, { .06, .08, .06, .01, .00, .00 }, none, none, { .01, .02, .02, .72, .82, .81 } },
  }
  for kind, classes in pairs(wanted) do
    for class, figures in ipairs(classes) do
      for layer, value in ipairs(figures) do rounds_to(trace[kind][class][layer], value, 2, ("%s, class %d, layer %d"):format(kind, class, layer - 1)) end
    end
  end
end)
