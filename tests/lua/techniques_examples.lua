-- The examples of paths, heads, lenses and probes say what is true of the built-in model.
-- (Without a collection at every step: the modules are tested with it elsewhere.)
local pb, check = require "patchbay", require "patchbay.check"
local out = check.output_folder()

local function run(name)
  local result = check.recipe { file = "examples/" .. name .. ".lua", output = out .. "/example_" .. name, gc_stress = false }
  check.ok(result.ok, name .. ": " .. tostring(result.message))
  return result.printed
end

local function has(text, ...)
  for _, part in ipairs { ... } do check.ok(text:find(part), ("the output lacks '%s':\n%s"):format(part, text)) end
end

check.test("example induction: layer 2 looks two after, layer 1 tells it where, 0.2 only looks so", function()
  has(run "induction", "look 2 after", "head 2%.2, 0%.89 ", "head 2%.1, 0%.85 ", "1%.%d %-> 2%.%d  %+0%.0[4-6]", "head 0%.2 .*: %-0%.")
end)

check.test("example paths: 2.3 to the logits, fed by MLP 0 through its values", function()
  has(run "paths", "head 2%.3  %+0%.5%d%d", "into v of 2%.3: MLP 0 %+0%.5", "into q of 2%.3: .*0%.00%d")
end)

check.test("example lens: Paris in the last layers, written by layer 4", function()
  has(run "lens", "at the end: ␣Paris 0%.97", "the parts add up to 13%.2", "head 4%.%d wrote %+3%.", "without head 4%.%d")
end)

check.test("example probe: what is read at the subject is used there", function()
  has(run "probe", "chance 0%.50; 160 prompts", "\n    0 +1%.00 .*%-4%.%d+", "\n    5 +1%.00 +1%.00")
end)

check.test("example compare: patching has the fact at the subject, a probe reads answers at the end before they are there", function()
  has(run "compare", "\n    4  subject_last +0%.9%d", "\n    4  end +0%.0[01] +%-?0%.00 +0%.[45]%d", "MLP 0 at its mean: .* %-10%.%d", "rank correlation with patching: gradient 0%.")
end)

-- ---- recipes of ../shared, as written ------------------------------------------------------------------------------------------------

local shared = (check.environment "PB_SHARED" or "../shared") .. "/recipes/"

local function recipe(name)
  if not pcall(pb.read, shared .. "../golden/techniques/path/gpt2/case.json") then check.skip("no " .. shared) end
  local result = check.recipe { file = shared .. name .. ".lua", output = out .. "/recipe_" .. name, gc_stress = false }
  check.ok(result.ok, name .. ": " .. tostring(result.message))
  return result.printed
end

check.test("recipe 06_path runs as written", function() recipe "06_path" end)

check.test("recipe 07_induction runs as written, and confirms the circuit", function()
  local low = tonumber(recipe "07_induction":match "path patching.* from (%-?%d+%.%d+) to")
  check.ok(low and low > 0.15, "each previous-token head brings something back: " .. tostring(low))
end)

check.test("recipe 08_compare runs as written", function() recipe "08_compare" end)
