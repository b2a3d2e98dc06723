package hook

import (
	"testing"

	"github.com/podid-io/podid/internal/hook/hooktest"
	"github.com/podid-io/podid/internal/hook/probe"
)

func TestMain(m *testing.M) {
	if _, is := probe.Main(); is {
		return
	}
	hooktest.Main(m)
}
