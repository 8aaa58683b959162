-- What a person sees when a recipe fails: the recipe's line, a traceback without the host's frames, what was expected.
local check = require "patchbay.check"
local test = check.test

local function message(text, options)
  options = options or {}
  options.text = text
  local result = check.recipe(options)
  check.ok(not result.ok, "the recipe ended well")
  return result.message
end

test("a failure of the library has the recipe's line", function()
  check.eq(message 'local pb = require "patchbay"\nlocal t = pb.zeros(2)\nt:select(0, 5)',
    "recipe.lua:3: index 5 is out of range for axis 0 of a tensor [2]; indices start at 0")
end)

test("the way to it: the recipe's functions, nothing of C", function()
  check.eq(message [[
local pb = require "patchbay"
local function inner(t) local x = t:select(0, 5) return x end
local function outer() local x = inner(pb.zeros(2)) return x end
local ok = outer()]],
    "recipe.lua:2: index 5 is out of range for axis 0 of a tensor [2]; indices start at 0\n" ..
    "    recipe.lua:2: in function 'inner'\n" ..
    "    recipe.lua:3: in function 'outer'\n" ..
    "    recipe.lua:4: in the main part")
end)

test("an error in the host's own Lua is the caller's", function()
  check.eq(message '\n\nrequire "patchbay".write("x.xyz", 1)',
    "recipe.lua:3: pb.write goes by the file's ending, and does not know that of 'x.xyz': known are .safetensors, .npy, .csv, .json, .jsonl, .txt")
end)

test("Lua's own errors keep their text", function()
  local text = message "local t = nil\nprint(t.x)"
  check.eq(text, "recipe.lua:2: attempt to index a nil value (local 't')")
  check.eq(message "x = = 1", "recipe.lua:1: unexpected symbol near '='")
end)

test("error with a table, a number, nothing", function()
  check.eq(message "error { code = 1 }", "the recipe raised an error that is a table, without a message")
  check.eq(message "error(nil)", "the recipe raised an error that is a nil, without a message")
  check.eq(message "error(setmetatable({}, { __tostring = function() return 'mine' end }))", "mine")
  check.eq(message "error(42)", "42")
  check.eq(message "error('x', 0)", "x")
  check.eq(message "error(setmetatable({}, { __tostring = function() error() end }))", "the recipe raised an error that is a table, without a message")
end)

test("errors in a coroutine and through pcall keep their line", function()
  local inner = message "coroutine.wrap(function()\n  require 'patchbay'.zeros('x')\nend)()"
  check.ok(inner:find("^recipe.lua:2: zeros: 'shape' must be an integer, got the text 'x'"), inner)
  local text = message "local ok, err = pcall(function()\n  require 'patchbay'.zeros('x')\nend)\nerror(err, 0)"
  check.ok(text:find("^recipe.lua:2: zeros: 'shape' must be an integer, got the text 'x'"), text)
end)

test("a function whose caller's code does not name it has the name that it has in pb", function()
  local function says(code, text)
    local got = message("local pb = require 'patchbay'\n" .. code)
    check.ok(got:find(text, 1, true), got)
    check.ok(not got:find("this function", 1, true), got)
  end
  for _, form in ipairs { "error(select(2, pcall(%s, %s)), 0)", "coroutine.wrap(%s)(%s)" } do
    says(form:format("pb.zeros", "'x'"), "pb.zeros: 'shape' must be an integer")
    says(form:format("pb.metric.nll", "{ poss = 1 }"), "pb.metric.nll: unknown field 'poss'")
    says(form:format("pb.zeros(2).select", "pb.zeros(2), 'x'"), "tensor:select: 'axis' must be an integer")
    says(form:format("pb.load", "'facts', { strem = true }"), "pb.load: unknown field 'strem'")
  end
  says("local function f() return pb.zeros('x') end\nlocal function g() return f() end\nlocal x = g()", "zeros: 'shape' must be an integer")
end)

test("a deep recursion shows its beginning and its end", function()
  local text = message "local function f(n) return 1 + f(n + 1) end\nlocal x = f(0)"
  check.ok(text:find("stack overflow", 1, true) and text:find "%.%.%. %d+ calls" and text:find("in the main part", 1, true), text)
  check.ok(#text < 3000, #text .. " characters")
end)

test("an error of a module has the module's line, and the way through require", function()
  local text = message [[
    local chunk = load("local pb = require 'patchbay'\n\npb.zeros('x')", "@module.lua")
    chunk()]]
  check.ok(text:find("^module.lua:3: zeros"), text)
  check.ok(text:find("recipe.lua:2: in", 1, true), text)
end)

test("wrong calls say what they take", function()
  local pb = require "patchbay"
  check.raises(function() pb.zeros(2):select { 0, 1 } end, "select: 'axis' must be an integer, got a list of 2")
  check.raises(function() pb.zeros(2).select(0) end, "expected a tensor, got the number 0", "a colon")
  check.raises(function() pb.zeros(2):selct(0, 1) end, "did you mean 'select'?")
  check.raises(function() pb.zero(2) end, "pb.zero does not exist; did you mean 'pb.zeros'?")
  check.raises(function() pb.metric.probb(" x") end, "did you mean 'pb.metric.prob'?")
  check.raises(function() pb.rand { 2, seeds = 1 } end, "rand: unknown field 'seeds'; did you mean 'seed'?")
  check.raises(function() pb.rand { 2, [{}] = 1 } end, "a table as a key")
  check.raises(function() pb.rand { 2, seed = 1.5 } end, "'seed' must be an integer, got the number 1.5")
  check.raises(function() pb.help "zeroes" end, "did you mean 'zeros'?")
end)

test("check: what fails, fails", function()
  check.raises(function() check.eq(1, 2) end, "got 1, expected 2")
  check.raises(function() check.eq(1, 1.0) end, "got 1, expected 1.0")
  check.raises(function() check.eq({ 1, { 2 } }, { 1, { 3 } }) end, "value[2][1]: got 2, expected 3")
  check.raises(function() check.eq({ 1, 2 }, { 1 }) end, "expected nothing")
  check.raises(function() check.close({ 1, 2 }, { 1, 2.1 }, 0.01) end, "value[2]: got 2, expected 2.1 within 0.01")
  check.raises(function() check.close(0 / 0, 1, 1e9) end, "nan")
  check.raises(function() check.close({ 1 }, { 1, 2 }) end, "got 1 elements, expected 2")
  check.raises(function() check.raises(function() end) end, "expected an error")
  check.raises(function() check.raises(function() error "a" end, "b") end, "does not contain")
  check.raises(function() check.ok(nil, "note") end, "note")
  check.eq(0 / 0, 0 / 0)
  check.close(-math.huge, -math.huge)
end)
