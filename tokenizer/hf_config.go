package tokenizer

import "fmt"

// readConfig takes from tokenizer_config.json what tokenizer.json does not say.
func (t *Tokenizer) readConfig(data []byte) error {
	// Without a config the template's tokens are the best guess.
	if len(t.prefix) == 1 {
		t.bos = t.prefix[0]
	}
	if len(t.suffix) == 1 {
		t.eos = t.suffix[0]
	}
	if len(data) == 0 {
		return nil
	}
	r, err := newJSON(data)
	if err != nil {
		return err
	}
	cfg := node{}
	err = r.Object(func(key string) (err error) {
		switch key {
		case "bos_token", "eos_token", "unk_token", "pad_token", "add_bos_token", "add_eos_token", "chat_template":
			cfg[key], err = readTree(r)
			return err
		}
		return r.Skip(false)
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return err
	}
	for key, id := range map[string]*int32{"bos_token": &t.bos, "eos_token": &t.eos, "unk_token": &t.unk, "pad_token": &t.pad} {
		text, ok := cfg[key].(string)
		if n := cfg.node(key); n != nil {
			text, ok = n["content"].(string)
		}
		if !ok {
			continue
		}
		*id = t.model.vocab.id(text)
		if *id < 0 && (key == "bos_token" || key == "eos_token") {
			return fmt.Errorf("%s %.40q is no token: %w", key, text, ErrFormat)
		}
	}
	t.prefix = override(cfg, "add_bos_token", t.prefix, t.bos)
	t.suffix = override(cfg, "add_eos_token", t.suffix, t.eos)

	t.chatTemplate = cfg.str("chat_template")
	for _, v := range cfg.list("chat_template") {
		if n, _ := v.(node); n.str("name") == "default" {
			t.chatTemplate = n.str("template")
		}
	}
	return nil
}

// override applies an explicit add_*_token to what the template adds.
func override(cfg node, key string, auto []int32, id int32) []int32 {
	add, ok := cfg[key].(bool)
	switch {
	case ok && !add:
		return nil
	case ok && len(auto) == 0 && id >= 0:
		return []int32{id}
	}
	return auto
}
