// Package vm is what the two sides of a virtual machine agree on: the program on the host, and
// init in the machine.
package vm

import "strings"

// Files in the machine.
const (
	Init       = "init"
	ModuleList = "/modules.list" // the path of a module in each line, in the order of loading
	TestList   = "/tests.list"   // a test program and its arguments in each line
)

// Mark is the kind of a line that init prints among the output of tests.
type Mark string

// The kinds of lines.
const (
	Kernel  Mark = "kernel"  // the release of the kernel
	Program Mark = "program" // the name of the test program whose output follows
	Exit    Mark = "exit"    // how a test program ended that did not end well
	Trouble Mark = "trouble" // why the machine could not run the tests
	End     Mark = "end"     // all programs have run
)

const prefix = "### "

// Line returns a line of this kind.
func (m Mark) Line(value string) string {
	return prefix + string(m) + " " + strings.ReplaceAll(value, "\n", ": ") + "\n"
}

// Parse reads a line, and reports whether it is one that Line returned.
func Parse(line string) (m Mark, value string, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), prefix)
	kind, value, _ := strings.Cut(rest, " ")
	return Mark(kind), value, ok
}
