-- pb.params: what a recipe takes from the command line.
local check = require "patchbay.check"
local test = check.test

local function run(text, ...)
  return check.recipe { text = 'local pb = require "patchbay"\n' .. text, params = { ... } }
end

local function prints(wanted, text, ...)
  local result = run(text, ...)
  check.ok(result.ok, result.message)
  check.eq(result.printed, wanted)
end

local function refused(part, text, ...)
  local result = run(text, ...)
  check.ok(not result.ok, "the recipe ended well")
  check.ok(result.message:find(part, 1, true), result.message)
end

local ALL = "local a = pb.params { n = 3, x = 0.5, name = 'facts', on = true, list = { 1, 2 }, words = {} }\n" ..
            "print(a.n, a.x, a.name, a.on, table.concat(a.list, '+'), table.concat(a.words, '+'))"

test("defaults", function() prints("3\t0.5\tfacts\ttrue\t1+2\t\n", ALL) end)
test("given values, by the default's type", function()
  prints("20\t2.0\ta b=c\tfalse\t7+8+9\tx+y\n", ALL, "n=20", "x=2", "name=a b=c", "on=false", "list=7,8,9", "words=x,y")
end)
test("empty values", function() prints("3\t0.5\t\ttrue\t\t\n", ALL, "name=", "list=", "words=") end)
test("the last of two wins", function() prints("5\t0.5\tfacts\ttrue\t1+2\t\n", ALL, "n=4", "n=5") end)
test("exponents and signs", function() prints("-3\t1e-05\tfacts\ttrue\t1+2\t\n", ALL, "n=-3", "x=1e-5") end)

test("values of the wrong kind", function()
  refused("parameter 'n' must be a number, got 'many'", ALL, "n=many")
  refused("parameter 'n' must be an integer (as its default 3 is), got '2.5'", ALL, "n=2.5")
  refused("parameter 'on' must be true or false, got 'yes'", ALL, "on=yes")
  refused("parameter 'list' must be a number, got 'x'", ALL, "list=1,x")
  refused("parameter 'x' must be a number, got 'nan'", ALL, "x=nan")
  refused("parameter 'n' must be a number, got ''", ALL, "n=")
end)
test("unknown names", function()
  refused("no parameter 'mame'; did you mean 'name'?", ALL, "mame=x")
  refused("it has: list, n, name, on, words, x", ALL, "zzzzzz=1")
  refused("params.nn does not exist", "local a = pb.params { n = 1 } print(a.nn)")
  refused("cannot be changed", "local a = pb.params { n = 1 } a.n = 2")
end)
test("a recipe without parameters that gets some", function()
  refused("'n=1' was given, but the recipe takes no parameters", "print 'x'", "n=1")
end)
test("wrong declarations", function()
  refused("may be called once", "pb.params {} pb.params {}")
  refused("a table of names and default values", "pb.params 'x'")
  refused("must be a number, text, true, false or a list", "pb.params { f = print }")
  refused("cannot be a parameter's name", "pb.params { ['a b'] = 1 }")
  refused("cannot be a parameter's name", "pb.params { 1 }")
end)
test("pairs goes over all", function()
  prints("n=1 s=x\n", "local t = {} for k, v in pairs(pb.params { n = 1, s = 'x' }) do t[#t + 1] = k .. '=' .. v end table.sort(t) print(table.concat(t, ' '))")
end)
test("the seed", function()
  local result = check.recipe { text = 'print(require "patchbay".seed)', seed = 12 }
  check.eq(result.printed, "12\n")
end)
