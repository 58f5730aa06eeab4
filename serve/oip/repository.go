package oip

import (
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/sparserun/sparserun/serve/registry"
)

type indexLine struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	State   string `json:"state"`
	Reason  string `json:"reason"`
}

func (s *server) index(onlyReady bool) []indexLine {
	list := []indexLine{}
	for _, st := range s.reg.Index() {
		if !onlyReady || st.State == registry.Ready {
			list = append(list, indexLine{st.Name, st.Version, string(st.State), st.Reason})
		}
	}
	return list
}

func (s *server) repositoryIndex(w http.ResponseWriter, r *http.Request) error {
	body, err := s.body(w, r)
	if err != nil {
		return err
	}
	onlyReady := false
	if len(body) > 0 {
		rd, err := reader(string(body))
		if err != nil {
			return err
		}
		if rd.Peek() != '{' {
			return bad("want an object")
		}
		err = rd.Object(func(key string) error {
			if key != "ready" {
				return bad("unknown field %q", clip(key))
			}
			if c := rd.Peek(); c != 't' && c != 'f' {
				return bad("ready: want true or false")
			}
			onlyReady, err = rd.Bool()
			return err
		})
		if err != nil {
			return err
		}
	}
	return s.reply(w, http.StatusOK, s.index(onlyReady))
}

// control refuses what only administrators may do.
func (s *server) control() error {
	if !s.o.Control {
		return &failure{http: http.StatusForbidden, grpc: codes.PermissionDenied, message: "models are loaded and unloaded on the admin listener only"}
	}
	return nil
}

// controlBody reads {parameters?: {...}} of a load or unload; what is not here is an
// error, as the model would not be what the caller thinks.
func (s *server) controlBody(w http.ResponseWriter, r *http.Request, harmless string) error {
	if err := s.control(); err != nil {
		return err
	}
	body, err := s.body(w, r)
	if err != nil || len(body) == 0 {
		return err
	}
	rd, err := reader(string(body))
	if err != nil {
		return err
	}
	if rd.Peek() != '{' {
		return bad("want an object")
	}
	p := parameters{}
	err = rd.Object(func(key string) error {
		if key != "parameters" {
			return bad("unknown field %q", clip(key))
		}
		return readParameters(rd, p)
	})
	for key := range p {
		if err == nil && key != harmless {
			err = bad("parameter %q is not supported", clip(key))
		}
	}
	return err
}

// load loads a known model again by its specification, beside the old one.
func (s *server) load(w http.ResponseWriter, r *http.Request, name string) error {
	if err := s.controlBody(w, r, ""); err != nil {
		return err
	}
	if err := s.reg.Reload(r.Context(), name); err != nil {
		return loadFailure(err)
	}
	return s.reply(w, http.StatusOK, struct{}{})
}

// unload takes a model out of service. There are no dependents.
func (s *server) unload(w http.ResponseWriter, r *http.Request, name string) error {
	if err := s.controlBody(w, r, "unload_dependents"); err != nil {
		return err
	}
	if err := s.reg.Unload(r.Context(), name); err != nil {
		return unloadFailure(err)
	}
	return s.reply(w, http.StatusOK, struct{}{})
}
