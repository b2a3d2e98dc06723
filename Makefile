# The commands of this repository. `make demo` runs the main job on this
# machine, `make test` passes the tests; `make help` lists the rest.
SHELL := /bin/sh
.DEFAULT_GOAL := help

CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/podid
# Tools are kept by the hash of their versions: a new version is a new folder.
TOOLS   := $(CACHE)/tools/$(shell cat go.tools.mod go.tools.sum | sha256sum | cut -c1-12)
ACTIONLINT := $(CACHE)/tools/actionlint-$(shell cat go.actionlint.mod go.actionlint.sum | sha256sum | cut -c1-12)/actionlint
HELM3   := $(CACHE)/tools/helm3-$(shell cat go.helm3.mod go.helm3.sum | sha256sum | cut -c1-12)/helm3
ASSETS  := $(CACHE)/assets
VERSION := $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)
BUILD   := github.com/podid-io/podid/internal/build
COMMIT  := $(or $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null),unknown)
DATE    := $(shell TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
LDFLAGS := -s -w -X $(BUILD).version=$(VERSION) -X $(BUILD).commit=$(COMMIT) -X $(BUILD).date=$(DATE)

# The tests report their progress on this shell's standard error.
GOTESTSUM = PODID_TEST_PROGRESS=/proc/$$$$/fd/2 $(TOOLS)/gotestsum --format pkgname --hide-summary skipped --raw-command --

export KUBEBUILDER_ASSETS := $(ASSETS)
export PODID_HELM := $(TOOLS)/helm
export PODID_HELM3 := $(HELM3)

##@ Run

.PHONY: demo
demo: root build $(TOOLS)/helm ## A real pod on a real cluster on this machine gets a real token
	@bin/podid sandbox demo

.PHONY: build
build: ## bin/mic, bin/nmi, bin/nmi-holder and bin/podid
	@CGO_ENABLED=0 hack/build.sh 'bin/mic, bin/nmi, bin/nmi-holder, bin/podid' go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/mic ./cmd/nmi ./cmd/nmi-holder ./cmd/podid

##@ Test

# Only a user's demo may download Kubernetes; what developers run builds it from the pinned source.
test test-unit test-api test-kernel test-clients test-sandbox test-planes test-faults test-release fuzz bench assets: export PODID_KUBERNETES := source

.PHONY: test
test: root gcc npm build assets $(TOOLS)/gotestsum $(TOOLS)/helm $(HELM3) ## Everything: unit, API server, kernel, client, fuzz and sandbox tests
	@$(GOTESTSUM) hack/test.sh unit api kernel clients fuzz sandbox

.PHONY: test-unit
test-unit: gcc $(TOOLS)/gotestsum $(TOOLS)/helm $(HELM3) ## Unit and property tests, with the race detector; no root needed
	@$(GOTESTSUM) hack/test.sh unit

.PHONY: test-api
test-api: gcc build assets $(TOOLS)/gotestsum $(TOOLS)/helm $(HELM3) ## CRDs and controllers against a real API server
	@$(GOTESTSUM) hack/test.sh api

.PHONY: test-kernel
test-kernel: root gcc $(TOOLS)/gotestsum ## The redirect, in throw-away network namespaces
	@$(GOTESTSUM) hack/test.sh kernel

# One virtual machine after the other, each takes six to twelve minutes. Not part of make test.
.PHONY: test-kernels
test-kernels: qemu ## The kernel tests of the agent on other kernels, in virtual machines; KERNELS="5.10 6.1" for some, ARGS=-h for help
	@go run ./test/kernels $(ARGS) $(KERNELS)

.PHONY: test-clients
test-clients: root npm assets $(TOOLS)/gotestsum ## Azure's SDKs, old and new, against the agent: tokens, errors, what they send
	@$(GOTESTSUM) hack/test.sh clients

.PHONY: test-sandbox
test-sandbox: root gcc build assets $(TOOLS)/gotestsum $(TOOLS)/helm ## Stories on a real cluster, and MIC killed and without API server
	@$(GOTESTSUM) hack/test.sh sandbox

.PHONY: test-planes
test-planes: root gcc build assets $(TOOLS)/gotestsum $(TOOLS)/helm ## The stories on each data plane, with each way of capture: three quarters of an hour
	@$(GOTESTSUM) hack/test.sh planes

.PHONY: test-faults
test-faults: root gcc build assets $(TOOLS)/gotestsum ## MIC killed, without API server: for long (PODID_FAULTS_SEED=n: again)
	@$(GOTESTSUM) hack/test.sh faults

.PHONY: fuzz
fuzz: gcc ## Hostile paths, queries and raw requests, FUZZTIME each (default 1m); make test runs those of the agent for some thousands of inputs
	@hack/fuzz.sh $(or $(FUZZTIME),1m)

.PHONY: bench
bench: root build assets ## The speed figures, measured here and now; ARGS="mic -only burst" for a part, ARGS=-h for help
	@hack/bench.sh $(ARGS)

##@ Release

.PHONY: release
release: $(TOOLS)/helm ## Everything that a release consists of, in dist/; the version is the commit's tag, RELEASE_TAG=v1.2.3 if it has several (docs/release.md)
	@cd hack/release && go run . build -source ../.. -out ../../dist -helm $(TOOLS)/helm $${RELEASE_TAG:+-version "$$RELEASE_TAG"} $(ARGS)

.PHONY: push
push: ## The images and the chart of dist/ to a registry of yours: REGISTRY=ghcr.io/you/podid
	@cd hack/release && go run . push -from ../../dist '$(REGISTRY)'

.PHONY: test-release
test-release: root assets qemu-user $(TOOLS)/helm $(TOOLS)/gotestsum ## A real release, built twice with the same bytes, and its arm64 programs in an emulator: some half an hour
	@$(GOTESTSUM) hack/test.sh release

##@ Keep in order

.PHONY: generate
generate: $(TOOLS)/controller-gen ## Deep copies, CRDs and the chart's copy of them, podid's copy of Kubernetes' pinned versions
	@$(TOOLS)/controller-gen object paths=./api/...
	@# CRDs that are older than apiextensions v1 keep unknown fields, which defaults do not go with.
	@$(TOOLS)/controller-gen crd:deprecatedV1beta1CompatibilityPreserveUnknownFields=false paths=./api/... output:crd:dir=config/crd
	@rm -f charts/podid/crds/*.yaml && cp config/crd/*.yaml charts/podid/crds/
	@for name in go.mod go.sum; do cp hack/kubernetes/$$name internal/sandbox/programs/pins/$$name.txt; done

.PHONY: verify
verify: generate ## Fails when generated files or go.mod are stale
	@for module in . hack/release; do (cd $$module && go mod tidy -diff) || { echo "error: $$module/go.mod is not tidy: run \"go mod tidy\" there and commit" >&2; exit 1; }; done
	@git diff --exit-code -- api config charts internal/sandbox/programs/pins || { echo 'error: generated files are stale: commit what "make generate" wrote' >&2; exit 1; }

.PHONY: lint
lint: words $(TOOLS)/golangci-lint $(ACTIONLINT) ## golangci-lint (import directions, no sleeps, error wrapping), go vet, actionlint and the words
	@$(ACTIONLINT) -shellcheck= .github/workflows/*.yml # not what the machine happens to have, and not another repository's
	@go vet ./...
	@$(TOOLS)/golangci-lint run --allow-parallel-runners ./...
	@cd hack/release && go vet ./... && $(TOOLS)/golangci-lint run --allow-parallel-runners ./...

.PHONY: words
words: ## Words, spellings and lengths that comments and pages do not use: hack/words has the list
	@go run ./hack/words

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## Format the code
	@$(TOOLS)/golangci-lint fmt ./...

.PHONY: vuln
vuln: $(TOOLS)/govulncheck ## Known vulnerabilities, where the database can be reached
	@hack/vuln.sh $(TOOLS)/govulncheck

.PHONY: clean
clean: ## Remove what was built here (the cache outside stays)
	@rm -rf bin dist

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Prerequisites of the targets above.

.PHONY: root gcc npm qemu qemu-user assets
root gcc npm qemu qemu-user:
	@hack/prerequisites.sh $@

assets: bin/podid
	@bin/podid sandbox prepare

bin/podid: build

$(TOOLS)/golangci-lint: package := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(TOOLS)/gotestsum: package := gotest.tools/gotestsum
$(TOOLS)/helm: package := helm.sh/helm/v4/cmd/helm
$(TOOLS)/controller-gen: package := sigs.k8s.io/controller-tools/cmd/controller-gen
$(TOOLS)/govulncheck: package := golang.org/x/vuln/cmd/govulncheck

$(HELM3):
	@mkdir -p $(@D)
	@CGO_ENABLED=0 hack/build.sh $(@F) go build -modfile=go.helm3.mod -o $@ helm.sh/helm/v3/cmd/helm

$(ACTIONLINT):
	@mkdir -p $(@D)
	@CGO_ENABLED=0 hack/build.sh $(@F) go build -modfile=go.actionlint.mod -o $(@D)/ github.com/rhysd/actionlint/cmd/actionlint

$(TOOLS)/%:
	@mkdir -p $(TOOLS)
	@CGO_ENABLED=0 hack/build.sh $(@F) go build -modfile=go.tools.mod -o $(TOOLS)/ $(package)
