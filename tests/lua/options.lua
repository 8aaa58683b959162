-- What modules written in Lua are made of: named arguments, words, errors that point at the caller.
local pb, check = require "patchbay", require "patchbay.check"

check.test("pb.options: defaults are filled in, the caller's table is not changed, unknown names are errors", function()
  local given = { window = 5 }
  check.eq(pb.options(given, { "heads", window = 3, seed = 1 }, "mine"), { window = 5, seed = 1 })
  check.eq(given, { window = 5 })
  check.eq(pb.options(nil, { seed = 1 }, "mine"), { seed = 1 })
  check.eq(pb.options({ heads = false }, { "heads" }, "mine"), { heads = false })
  check.raises(function() pb.options({ windw = 1 }, { window = 3 }, "mine.trace") end, "mine.trace", "did you mean 'window'")
  check.raises(function() pb.options({ 7 }, { window = 3 }, "mine") end, "mine")
  check.raises(function() pb.options("x", { window = 3 }, "mine") end, "mine", "named arguments")
  check.raises(function() pb.options({}, 3) end, "table of names")
end)

check.test("pb.one_of: the word, or all words and the nearest", function()
  check.eq(pb.one_of("b", { "a", "b" }, "x"), "b")
  check.raises(function() pb.one_of("meen", { "zero", "mean" }, "kind") end, "kind must be one of zero, mean", "did you mean 'mean'")
  check.raises(function() pb.one_of(3, { "zero", "mean" }, "kind") end, "got the number 3")
  check.raises(function() pb.one_of(nil, { "zero" }, "kind") end, "nil")
end)

check.test("pb.fail: the line of the recipe, also from inside a technique", function()
  check.raises(function() pb.fail("%d of %s", 3, "x") end, "options.lua:", "3 of x")
  check.raises(function() pb.fail "100 % of it" end, "100 % of it")
  check.raises(function() pb.fail() end, "takes a text")
  local text = check.raises(function() require("patchbay.patching").resid_pre("x") end, "options.lua:")
  check.ok(not text:find("patching.lua:", 1, true), text)
end)

check.test("recipes may read the tasks of built-in models, and no other file of theirs", function()
  local result = check.recipe { text = [[
    local pb = require "patchbay"
    local data = require "patchbay.data"
    print(#data.facts(pb.load "facts", "facts", { n = 3, quiet = true }))
    print(pcall(pb.read, pb.load("facts").folder .. "/../../../Makefile.txt"))]] }
  check.ok(result.ok, result.message)
  check.ok(result.printed:find("^3\nfalse"), result.printed)
end)
