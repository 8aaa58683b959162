-- Ways out of the sandbox, each as a recipe of its own: what must not work, and what must be said.
local check = require "patchbay.check"
local test = check.test

local function run(text, options)
  options = options or {}
  options.text = text
  return check.recipe(options)
end

local function refused(text, ...)
  local result = run(text)
  check.ok(not result.ok, "the recipe ended well:\n" .. text)
  for _, part in ipairs { ... } do
    check.ok(result.message:find(part, 1, true), ("the message is '%s', without '%s'"):format(result.message, part))
  end
end

local function prints(text, wanted, options)
  local result = run(text, options)
  check.ok(result.ok, result.message)
  check.eq(result.printed, wanted)
end

-- Ends within seconds although the text loops for ever.
local function is_stopped(text)
  local result = run(text, { time = 0.2, memory = 64 << 20 })
  check.ok(not result.ok, "the recipe ended well")
  check.eq(result.status, "stopped")
  check.ok(result.seconds < 5, ("stopped after %.1f s"):format(result.seconds))
end

-- ---- what is there ------------------------------------------------------------------------------------------------------

test("globals: exactly the allowed ones", function()
  prints([[
    local names = {}
    for name in pairs(_G) do names[#names + 1] = name end
    table.sort(names)
    print(table.concat(names, " "))]],
    "_G _VERSION assert collectgarbage coroutine error getmetatable ipairs load math next os pairs pcall print rawequal " ..
    "rawget rawlen rawset require select setmetatable string table tonumber tostring type utf8 warn xpcall\n")
end)

test("libraries: exactly the allowed functions", function()
  prints([[
    for _, library in ipairs { "os", "string", "table", "coroutine" } do
      local names = {}
      for name in pairs(_G[library]) do names[#names + 1] = name end
      table.sort(names)
      print(library, table.concat(names, " "))
    end]],
    "os\tclock date difftime time\n" ..
    "string\tbyte char find format gmatch gsub len lower match pack packsize rep reverse sub unpack upper\n" ..
    "table\tconcat insert move pack remove sort unpack\n" ..
    "coroutine\tclose create isyieldable resume running status wrap yield\n")
end)

for _, name in ipairs { "io", "debug", "package", "dofile", "loadfile" } do
  test("withheld: " .. name, function() refused("local x = " .. name, "'" .. name .. "'", "recipe.lua:1:", "--trust") end)
end

test("--trust gives them", function()
  prints("print(type(io.open), type(debug.getinfo), type(package.path), type(os.execute), type(dofile))",
    "function\tfunction\tstring\tfunction\tfunction\n", { trust = true })
end)

test("--trust finds standard modules, and ours before them", function()
  prints("package.preload.mine = function() return 'standard' end; print(require 'mine', type(require 'patchbay'.zeros), require 'patchbay.check' ~= nil)",
    "standard\tfunction\ttrue\n", { trust = true })
  local result = run("require 'nowhere'", { trust = true })
  check.ok(result.message:find("module 'nowhere' not found", 1, true), result.message)
end)

test("an undefined global raises, with the nearest name", function()
  refused("prnit 'x'", "recipe.lua:1:", "'prnit' is not defined", "did you mean 'print'?")
  refused("pb.load 'facts'", "'pb' is not defined", 'require "patchbay"')
end)

test("the environment's own guard cannot be taken off", function()
  refused("setmetatable(_G, nil)", "protected metatable")
  prints("print(getmetatable(_G))", "false\n")
end)

test("assigning a global stays in the script", function()
  prints("x = 1; print(x, _G.x, rawget(_G, 'x'))", "1\t1\t1\n")
end)

-- ---- bytecode -------------------------------------------------------------------------------------------------------------

test("string.dump is not there", function() refused("string.dump(print)", "dump") end)
test("load refuses a mode of bytecode", function() refused([[load("return 1", "x", "b")]], "bytecode") end)
test("load refuses bytecode", function()
  -- the header of a Lua 5.4 dump
  prints([[print(load("\27Lua\x54\0\x19\x93\r\n\x1a\n\4\8\8"))]], "nil\tattempt to load a binary chunk (mode is 't')\n")
  prints([[print(load("\27Lua", "x", "bt"))]], "nil\tattempt to load a binary chunk (mode is 't')\n")
end)
test("load of text works, in the script's environment or a given one", function()
  prints("y = 3; print(load 'return y'())", "3\n")
  prints("print(load('return y', 'c', 't', { y = 4 })())", "4\n")
  prints("print(load('return y', 'c', 't', {})())", "nil\n")
  prints("local n = 0; print(load(function() n = n + 1; return ({ 'return ', '1', '+1' })[n] end)())", "2\n")
  prints("print(load 'return +')", "nil\t[string \"return +\"]:1: unexpected symbol near '+'\n")
end)
test("a recipe that is bytecode is refused", function()
  local result = run("\27Lua")
  check.ok(result.message:find "bytecode", result.message)
end)

-- ---- metatables --------------------------------------------------------------------------------------------------------------

test("__gc is refused, a function or not", function()
  refused("setmetatable({}, { __gc = function() end })", "__gc")
  refused("local mt = { __gc = true }; setmetatable({}, mt); mt.__gc = print", "__gc")
  refused("setmetatable({}, { __gc = false })", "__gc")
end)
test("__gc added later does nothing", function()
  prints([[
    local mt = {}
    do local t = setmetatable({}, mt) end
    mt.__gc = function() print "finalised" end
    collectgarbage(); collectgarbage()
    print "end"]], "end\n")
end)
test("the metatable of strings is out of reach", function()
  prints("print(getmetatable(''))", "false\n")
  refused("getmetatable('').__index = {}", "index a boolean")
  prints("string.upper = function() return 'hacked' end; print(('x'):upper())", "X\n")
end)
test("a script's changed library stays its own", function()
  prints([[
    string.format = nil
    math.floor = nil
    local pb = require "patchbay"
    print(pb.tensor { 1 })]], "tensor [1] float32\n[1]\n")
end)
test("a class's finaliser cannot be stolen", function()
  prints([[
    local pb = require "patchbay"
    local t = pb.zeros(2)
    print(getmetatable(t), pcall(setmetatable, t, {}))]],
    "tensor\tfalse\tbad argument #1 to '?' (table expected, got tensor)\n")
  refused("local pb = require 'patchbay'; local t = pb.zeros(2); t.__gc(t)", "no field or method '__gc'")
  refused("local pb = require 'patchbay'; local t = pb.zeros(2); t:close(); t:close(); print(t:sum())", "was closed")
  refused("local pb = require 'patchbay'; pb.zeros(2).close({})", "expected a tensor, got a table")
end)
test("a method called on another object is an error", function()
  refused("local pb = require 'patchbay'; pb.zeros(2).sum('x')", "expected a tensor, got the text 'x'")
  refused("local pb = require 'patchbay'; pb.zeros(2).sum(pb)", "expected a tensor")
end)
test("pb cannot be changed, and unknown names in it raise", function()
  refused("require 'patchbay'.zeros = nil", "cannot be changed")
  refused("require 'patchbay'.metric.prob = nil", "cannot be changed")
  refused("require 'patchbay'.zeross(1)", "did you mean 'pb.zeros'?")
  prints("print(getmetatable(require 'patchbay'))", "pb\n")
end)

-- ---- time ------------------------------------------------------------------------------------------------------------------------

test("an endless loop", function() is_stopped "while true do end" end)
test("an endless loop under pcall", function() is_stopped "pcall(function() while true do end end) while true do end" end)
test("pcall in a loop", function() is_stopped "while true do pcall(function() while true do end end) end" end)
test("nested pcall", function()
  is_stopped [[
    local function nest(n) if n == 0 then while true do end end pcall(nest, n - 1) return nest(3) end
    nest(50)]]
end)
test("xpcall with a handler that loops", function()
  is_stopped "while true do xpcall(function() while true do end end, function() while true do end end) end"
end)
test("error in the error handler", function() is_stopped "while true do xpcall(error, function() error() end) end" end)
test("an endless coroutine", function() is_stopped "coroutine.wrap(function() while true do end end)() while true do end" end)
test("a loop that resumes coroutines", function()
  is_stopped "while true do coroutine.resume(coroutine.create(function() while true do end end)) end"
end)
test("a coroutine made before the stop", function()
  is_stopped [[
    local co = coroutine.wrap(function() while true do coroutine.yield() pcall(function() while true do end end) end end)
    while true do pcall(co) end]]
end)
test("a __close handler that loops", function()
  is_stopped [[
    local x <close> = setmetatable({}, { __close = function() while true do end end })
    while true do end]]
end)
test("a __close handler of a killed coroutine", function()
  is_stopped [[
    local co = coroutine.create(function()
      local x <close> = setmetatable({}, { __close = function() while true do end end })
      while true do end
    end)
    while true do pcall(coroutine.resume, co) pcall(coroutine.close, co) end]]
end)
test("metamethods that loop", function()
  is_stopped "local t = setmetatable({}, { __index = function() while true do end end }) while true do pcall(function() return t.x end) end"
end)
test("a sort with a comparison that loops", function()
  is_stopped "table.sort({ 3, 2, 1 }, function() while true do end end)"
end)
test("load with an endless reader", function() is_stopped "load(function() return ' ' end)" end)
test("gsub with a callback that loops", function() is_stopped "('x'):gsub('x', function() while true do end end)" end)
test("a require that loops is stopped", function() is_stopped "local require = require; while true do pcall(require, 'no.such') end" end)

-- C functions that a script can keep busy
test("a pattern that backtracks for hours", function()
  is_stopped [[print(("a"):rep(40):find(("a?"):rep(40) .. ("a"):rep(41)))]]
end)
test("a pattern of many repetitions", function()
  is_stopped [[print(("a"):rep(3000):find((".-"):rep(12) .. "b"))]]
end)
test("a plain search of quadratic time", function()
  is_stopped [[local s = ("a"):rep(4000000); print(s:find(("a"):rep(2000000) .. "b", 1, true))]]
end)
test("string.rep of nothing", function() prints("print(#(''):rep(1 << 62))", "0\n") end)
test("table.move of an absurd range", function() refused("table.move({}, 1, 1 << 50, 2)", "table.move") end)
test("table.insert into a table that lies about its length", function()
  refused("table.insert(setmetatable({}, { __len = function() return 1 << 50 end }), 1, 0)", "longer than")
end)
test("table.remove from a table that lies about its length", function()
  refused("table.remove(setmetatable({}, { __len = function() return 1 << 50 end }), 1)", "longer than")
end)

-- ---- memory -----------------------------------------------------------------------------------------------------------------------

local function runs_out(text)
  local result = run(text, { memory = 16 << 20, time = 300 })
  check.ok(not result.ok, "the recipe ended well")
  check.eq(result.status ~= "stopped", true, "it was stopped by time")
  check.ok(result.message:find "memory", result.message)
end

test("a growing table", function() runs_out "local t = {} while true do t[#t + 1] = {} end" end)
test("string.rep of a gigabyte", function() runs_out "local s = ('x'):rep(1 << 30)" end)
test("string.rep beyond what a size can be", function() refused("('xx'):rep(1 << 62)", "too large") end)
test("concatenation that doubles", function() runs_out "local s = 'x' while true do s = s .. s end" end)
test("table.concat", function() runs_out "local t = {} for i = 1, 1000 do t[i] = ('x'):rep(100000) end table.concat(t)" end)
test("gsub that multiplies", function() runs_out "local s = ('x'):rep(1000) while true do s = s:gsub('x', 'xxxxxxxxxx') end" end)
test("a closure per step", function() runs_out "local t = {} while true do t = { t, function() return t end } end" end)
test("coroutines kept", function() runs_out "local t = {} while true do t[#t + 1] = coroutine.create(function() end) end" end)
test("tensors kept", function()
  runs_out "local pb = require 'patchbay'; local t = {} while true do t[#t + 1] = pb.zeros(256, 256) end"
end)
test("one tensor too large", function() runs_out "require 'patchbay'.zeros(100000, 100000)" end)
test("tensors dropped do not run out", function()
  prints("local pb = require 'patchbay' for i = 1, 300 do local t = pb.zeros(512, 512) end print 'done'", "done\n", { memory = 16 << 20 })
end)
test("running out can be caught, and the recipe goes on", function()
  prints([[
    local ok, err = pcall(function() local s = ("x"):rep(1 << 30) end)
    print(ok, err)]], "false\tnot enough memory\n", { memory = 16 << 20 })
end)
test("the message says what the limit is and who holds it", function()
  local result = run("local t = {} while true do t[#t + 1] = {} end", { memory = 16 << 20 })
  check.ok(result.message:find("16.0 MiB", 1, true) and result.message:find "Lua holds", result.message)
end)
test("deep recursion is an error, not a crash", function()
  refused("local function f() return 1 + f() end f()", "stack overflow")
  refused("local t = setmetatable({}, {}) getmetatable(t).__index = function(_, k) return t[k] end local x = t.x", "overflow")
  refused("('x'):gsub(('('):rep(40) .. 'x' .. (')'):rep(40), '')", "too many captures")
  refused("string.format(('x'):rep(10):gsub('.', function(c) return error(c) end))", "x")
end)

-- ---- the collector -------------------------------------------------------------------------------------------------------------------

test("the collector cannot be stopped", function()
  refused("collectgarbage 'stop'", "not a recipe's to stop")
  refused("collectgarbage('setpause', 1000)", "collectgarbage")
  prints("print(math.type(collectgarbage 'count'), collectgarbage())", "float\t0\n")
end)

-- ---- randomness ------------------------------------------------------------------------------------------------------------------------

test("math.random depends on the seed alone", function()
  local text = "print(math.random(1 << 30), math.random())"
  local a, b, c = run(text, { seed = 7 }), run(text, { seed = 7 }), run(text, { seed = 8 })
  check.eq(a.printed, b.printed)
  check.ok(a.printed ~= c.printed, "another seed gives the same numbers")
  refused("math.randomseed()", "needs a number")
end)

-- ---- require --------------------------------------------------------------------------------------------------------------------------------

test("require: names that leave the folder", function()
  for _, name in ipairs { "../sandbox", "..sandbox", "/etc/passwd", "a/../b", "", ".", "a..b", "a.", ".a", "a\\b" } do
    refused(("require(%q)"):format(name), "require")
  end
  refused("require('x\\0y')", "zero byte")
  refused("require 'patchbay.core.io'", "no module")
  refused("require 'patchbay.help.tensor'", "no module")
  refused("require 'patchbay.nothing'", "no module 'patchbay.nothing'")
  refused("require(1)", "must be text")
  refused("require('a', 'b')", "at most 1 argument")
end)

-- ---- print and warn -------------------------------------------------------------------------------------------------------------------------

test("print and warn", function()
  prints("print(1, nil, 'x', 2.5); print()", "1\tnil\tx\t2.5\n\n")
  prints("warn('a', 'b'); warn '@on'", "warning: ab\n")
  prints("print(setmetatable({}, { __tostring = function() return 'me' end }))", "me\n")
end)
