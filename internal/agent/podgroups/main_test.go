package podgroups

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package when an index outlives its test.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
