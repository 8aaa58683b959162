-- Files: what is written is read back, and no name leads out of the folders that a recipe has.
local pb = require "patchbay"
local check = require "patchbay.check"
local test, eq, raises = check.test, check.eq, check.raises

test("safetensors: names, shapes, types, metadata", function()
  pb.write("a.safetensors", { x = pb.tensor { { 1, 2 }, { 3, 4 } }, ids = pb.tensor({ 7, 8 }, "int32"), s = pb.tensor(1.5), t = pb.tensor { { 1, 2 }, { 3, 4 } }:transpose() },
    { metadata = { made_by = "a test" } })
  local back = pb.read "a.safetensors"
  eq(back.x:totable(), { { 1.0, 2.0 }, { 3.0, 4.0 } })
  eq(back.ids:totable(), { 7, 8 })
  eq(back.s:item(), 1.5)
  eq(back.t:totable(), { { 1.0, 3.0 }, { 2.0, 4.0 } })
  raises(function() pb.write("a.safetensors", { 1 }) end, "names and tensors", "the number 1")
  raises(function() pb.write("a.safetensors", pb.zeros(1)) end, "names and tensors")
  raises(function() pb.write("a.safetensors", {}, { metadat = {} }) end, "unknown field 'metadat'", "did you mean 'metadata'?")
end)

test("safetensors lies in its file until it is changed, and the file is not", function()
  pb.write("big.safetensors", { x = pb.arange(0, 3e5) })
  local x = pb.read("big.safetensors").x
  collectgarbage()
  x:add_(1)
  eq({ x:get(0), x:get(299999) }, { 1.0, 300000.0 })
  eq(pb.read("big.safetensors").x:get(299999), 299999.0)
end)

test("state dicts of torch.save", function()
  local folder = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/storage/files/"
  local back = pb.read(folder .. "small.pt")
  eq(back.a:totable(), { { 0.0, 1.0, 2.0 }, { 3.0, 4.0, 5.0 } })
  eq(back.b:totable(), { 0, 1, 2, 3 })
  eq(back.c:item(), 2.5)
  eq(back.e.shape, { 4, 3 })
  eq(back.g:totable(), { 1, 0 })
  local n = 0
  for _ in pairs(back) do n = n + 1 end
  eq(n, 8)
  raises(function() pb.read(folder .. "forbidden.pt") end, "forbidden.pt")
  raises(function() pb.read(folder .. "legacy.pt") end, "before version 1.6")
  raises(function() pb.write("x.pt", back) end, "does not know that of 'x.pt'")
end)

test("npy", function()
  pb.write("a.npy", pb.tensor { { 1, 2, 3 } })
  eq(pb.read("a.npy"):totable(), { { 1.0, 2.0, 3.0 } })
  raises(function() pb.write("a.npy", { 1 }) end, "expected a tensor")
end)

test("csv of rows", function()
  local rows = { { name = 'say "hi", you', n = 1, x = 0.5 }, { name = "two\nlines", n = 2, x = -1e-9 }, { name = "12", n = 3, x = 2 } }
  pb.write("rows.csv", rows)
  local back, columns = pb.read "rows.csv"
  eq(columns, { "n", "name", "x" })
  eq(back, rows)
  pb.write("rows.csv", rows, { columns = { "x", "n", "name" } })
  eq(select(2, pb.read "rows.csv"), { "x", "n", "name" })
  raises(function() pb.write("rows.csv", rows, { columns = { "x" } }) end, "is not among the columns")
  raises(function() pb.write("rows.csv", { { f = print } }) end, "a CSV field is a number or a text")
  raises(function() pb.write("rows.csv", { 1, 2 }) end, "list of rows")
end)

test("csv of a tensor", function()
  pb.write("t.csv", pb.tensor { { 1, 2 }, { 3, 4 } }, { axes = { "layer", "token" }, labels = { false, { "a,b", "c" } } })
  eq(pb.read "t.csv", { { layer = 0, token = "a,b", value = 1 }, { layer = 0, token = "c", value = 2 }, { layer = 1, token = "a,b", value = 3 }, { layer = 1, token = "c", value = 4 } })
  raises(function() pb.write("t.csv", pb.zeros(2), { axes = { "a", "b" } }) end, "list of 1 texts")
  raises(function() pb.write("t.csv", pb.zeros(2), { labels = { { "a" } } }) end, "list of 2 texts")
end)

-- A text under another ending: pb.write would refuse to make the broken file itself.
local function under(text, name)
  local out = check.output_folder()
  pb.write(name .. ".txt", text)
  check.link(name .. ".txt", out .. "/" .. name)
  return name
end

test("broken csv names file, record and place", function()
  raises(function() pb.read(under('a,b\n1,"2\n', "open.csv")) end, "'open.csv': a quoted field that begins at byte 7 does not end")
  raises(function() pb.read(under("a,b\n1,2,3\n", "wide.csv")) end, "record 2 has 3 fields, the first one has 2")
  raises(function() pb.read(under('a,b\n"1"x,2\n', "behind.csv")) end, "text behind a closing quote")
  raises(function() pb.read(under("", "empty.csv")) end, "is empty")
  eq(pb.read(under("a\r\n1\r\n2", "dos.csv")), { { a = 1 }, { a = 2 } })
end)

test("json: values, numbers, null, unicode, order", function()
  local value = { list = { 1, 2.5, true, false, pb.null, "é\n\"\\" }, map = { b = 1, a = { {} } }, n = 1 << 40, tiny = 5e-324, third = 1 / 3 }
  pb.write("a.json", value)
  eq(pb.read "a.json", value)
  pb.write("t.json", { t = pb.tensor { { 1, 0.1 } }, i = pb.tensor({ 3 }, "int32") })
  eq(pb.read "t.json", { t = { { 1, 0.1 } }, i = { 3 } })
  pb.write("a.jsonl", { { a = 1 }, 2, "x" })
  eq(pb.read "a.jsonl", { { a = 1 }, 2, "x" })
  raises(function() pb.write("a.json", { 0 / 0 }) end, "JSON has no NaN")
  raises(function() pb.write("a.json", { 1 / 0 }) end, "JSON has no infinity")
  raises(function() pb.write("a.json", { 1, 2, x = 3 }) end, "not both")
  raises(function() pb.write("a.json", { 1, nil, 3, [10] = 4 }) end, "as a key")
  raises(function() pb.write("a.json", { print }) end, "no place for a function")
  raises(function() pb.write("a.json", "\xff") end, "UTF-8")
  local loop = {}
  loop.loop = loop
  raises(function() pb.write("a.json", loop) end, "nested more than 64 deep")
  eq(pb.read "a.json", value, "a failed write changed the file")
end)

test("broken json names file and line", function()
  raises(function() pb.read(under('{"a": 1,\n "b": }', "bad.json")) end, "bad.json", "2")
  raises(function() pb.read(under('1\n2\n{"a" 1}', "bad.jsonl")) end, "bad.jsonl, line 3")
  raises(function() pb.read(under('{"a": 1, "a": 2}', "twice.json")) end, "twice.json", "dup")
  raises(function() pb.read(under(("["):rep(200) .. ("]"):rep(200), "deep.json")) end, "nested more than 64 deep")
  raises(function() pb.read "nothing.json" end, "no file 'nothing.json'")
end)

test("broken safetensors and npy", function()
  raises(function() pb.read(under("abc", "short.safetensors")) end, "short.safetensors")
  raises(function() pb.read(under(("\255"):rep(64), "huge.safetensors")) end, "huge.safetensors")
  raises(function() pb.read(under("abc", "short.npy")) end, "short.npy")
end)

test("txt, and endings", function()
  pb.write("deep/er/a.txt", "text\0with zero")
  eq(pb.read "deep/er/a.txt", "text\0with zero")
  raises(function() pb.write("a", 1) end, "goes by the file's ending")
  raises(function() pb.write("a.exe", 1) end, "'a.exe'")
  raises(function() pb.read "a.lua" end, "known are")
  raises(function() pb.read(1) end, "must be text")
  raises(function() pb.write "a.txt" end, "needs data")
  raises(function() pb.write("a.txt", 1) end, "'data' must be text")
end)

test("names that lead out of the output folder", function()
  for _, name in ipairs { "../a.txt", "/tmp/a.txt", "a/../../b.txt", "./a.txt", "a//b.txt", "..", "a/./b.txt", "a\0/../b.txt", ("x"):rep(600) .. ".txt" } do
    raises(function() pb.write(name, "x") end)
  end
  raises(function() pb.write("../a.txt", "x") end, "leaves the output folder")
  raises(function() pb.write("/tmp/a.txt", "x") end, "absolute", "-o DIR")
end)

test("symbolic links in the output folder are not followed", function()
  local out = check.output_folder()
  pb.write("inside.txt", "x")
  check.ok(check.link("/", out .. "/root"))
  check.ok(check.link("inside.txt", out .. "/link.txt"))
  raises(function() pb.write("root/patchbay-test.txt", "x") end, "symbolic link")
  raises(function() pb.write("link.txt", "y") end, "symbolic link")
  eq(pb.read "inside.txt", "x")
end)

test("reading: the recipe's folder, the output folder, --read, and nothing else", function()
  local out = check.output_folder()
  pb.write("mine/data.txt", "mine")
  pb.write("other/data.txt", "other")
  pb.write("mine/link.txt", "x")
  check.link("../other/data.txt", out .. "/mine/escape.txt")
  local function reading(name, readable)
    return check.recipe { text = ('print(require "patchbay".read(%q))'):format(name), recipe = out .. "/mine/recipe.lua", output = out .. "/elsewhere", readable = readable }
  end
  eq(reading("data.txt").printed, "mine\n")
  for _, name in ipairs { "../other/data.txt", out .. "/other/data.txt", "escape.txt", "/etc/passwd.txt", "/etc/hostname" } do
    local result = reading(name)
    check.ok(not result.ok, "it read " .. name)
  end
  check.ok(reading("../other/data.txt").message:find("may not be read", 1, true))
  check.ok(reading("escape.txt").message:find("may not be read", 1, true))
  eq(reading("../other/data.txt", { out .. "/other" }).printed, "other\n")
  eq(reading("data.txt", { out .. "/other" }).printed, "mine\n")
end)

test("require finds modules beside the recipe, once, and not through links", function()
  local out = check.output_folder()
  local function in_folder(text)
    return check.recipe { text = text, recipe = out .. "/modules/recipe.lua", output = out .. "/elsewhere" }
  end
  -- pb.write makes no .lua files: modules are links to .txt ones
  pb.write("modules/one.txt", "local n = ... counter = (rawget(_G, 'counter') or 0) + 1 return { name = n, env = _G, count = counter }")
  pb.write("modules/self.txt", "return require 'self'")
  pb.write("modules/bad.txt", "local pb = require 'patchbay'\n\npb.zeros('x')")
  pb.write("modules/code.txt", "\27Lua")
  pb.write("modules/sub/two.txt", "return 2")
  pb.write("outside.txt", "return 'outside'")
  for _, name in ipairs { "one", "self", "bad", "code", "sub/two" } do check.link(name:match "[^/]+$" .. ".txt", out .. "/modules/" .. name .. ".lua") end
  check.link("../outside.txt", out .. "/modules/outside.lua")
  local result = in_folder "local a, b = require 'one', require 'one' print(a == b, a.name, a.env ~= _G, a.count, rawget(_G, 'counter'))"
  eq(result.printed, "true\tone\ttrue\t1\tnil\n", result.message)
  eq(in_folder("print(require 'sub.two')").printed, "2\n")
  check.ok(in_folder("require 'outside'").message:find("no module 'outside'", 1, true))
  check.ok(in_folder("require 'self'").message:find("requires itself", 1, true))
  check.ok(in_folder("require 'code'").message:find("bytecode", 1, true))
  local bad = in_folder "pcall(require, 'bad') require 'bad'"
  check.ok(bad.message:find("^bad.lua:3: zeros") and bad.message:find("recipe.lua:1: in the main part", 1, true), bad.message)
end)
