-- The examples, and the recipes of ../shared as written: each in a state of its own, sandboxed.
local pb, check = require "patchbay", require "patchbay.check"

local shared = (check.environment "PB_SHARED" or "../shared") .. "/recipes"
local out = check.output_folder()

local function run(file, name, params)
  local result = check.recipe { file = file, output = out .. "/" .. name, params = params }
  check.ok(result.ok, file .. ": " .. tostring(result.message))
  return result.printed
end

local function has(text, ...)
  for _, part in ipairs { ... } do check.ok(text:find(part), ("the output lacks '%s':\n%s"):format(part, text)) end
end

check.test("example trace: the fact is at the last subject token, then at the end", function()
  local text = run("examples/trace.lua", "trace")
  has(text, "0%.97%d clean, 0%.000 corrupted", "before layer 2, at token 5", "before layer 5, at token 11", "100 %% of the answer")
end)

check.test("example trace takes parameters", function()
  local text = run("examples/trace.lua", "trace2", { "clean=The Berlin Wall is located in the city of", "corrupt=The Paris Wall is located in the city of",
                                                     "answer= Berlin", "subject=Wall" })
  has(text, "probability of ' Berlin'")
end)

check.test("example heads: 2.3 brings back most", function()
  local text = run("examples/heads.lua", "heads")
  has(text, "100 %% of the clean prompts", "head 2%.3 brings back %+0%.5%d%d ± 0%.0%d%d")
  check.eq(#pb.read(out .. "/heads/heads.csv"), 24)
end)

check.test("example your_own_patch: heads of layer 0 must not be swapped", function()
  has(run("examples/your_own_patch.lua", "swap"), "swapping heads 0%.%d and 0%.%d costs most: %-%d")
end)

check.test("example attention: head 2.3 reads the second mention", function()
  has(run("examples/attention.lua", "attention"), "head 2%.3, from the last token: 0%.9%d to the second '␣John'")
end)

local recipes = {
  ["01_trace"] = { "p%( Paris%): clean 0%.97%d, corrupted 0%.000" },
  ["02_heads"] = { "head 2%.3  %+0%.5%d%d ± 0%.%d%d%d" },
  ["03_knockout"] = {},
  ["04_interpolate"] = { "0%.0  0%.0000", "1%.0  0%.97%d%d" },
  ["11_steer"] = { "^0%s+The Colosseum is located in the city of Rome" },
}
local names = {}
for name in pairs(recipes) do names[#names + 1] = name end
table.sort(names)
for _, name in ipairs(names) do
  check.test("recipe " .. name .. " runs as written", function()
    if not pcall(pb.read, shared .. "/../models/facts/config.json") then check.skip("no " .. shared) end
    has(run(shared .. "/" .. name .. ".lua", name), table.unpack(recipes[name]))
  end)
end
