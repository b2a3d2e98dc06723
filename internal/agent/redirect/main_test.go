package redirect

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package when a loop, a watch or a listener outlives its test.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
