package netns

import (
	"testing"

	"github.com/podid-io/podid/internal/hook/hooktest"
)

func TestMain(m *testing.M) { hooktest.Main(m) }
